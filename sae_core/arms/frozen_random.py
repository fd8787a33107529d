from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SparseArm, Start
from sae_core.dictionary import FrozenDictionary
from sae_core.sae import SAE
from sae_core.storage import FROM_SEED, Layout


@dataclass(frozen=True)
class FrozenRandom(SparseArm):
    """The random control: the expander's support with random values that never change; only the biases are learned.

    Support and values are drawn from the seed and not stored. n + m values are stored; where the encoder is a pursuit,
    only the m values of b_dec.
    """

    name = "frozen_random"
    can_be_quantised = False
    draws_support = True

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(support=FROM_SEED, value_bits=0)

    def make(self, start: Start) -> SAE:
        basis, drawn, support = self.draw(start, "expander")
        dictionary = FrozenDictionary(start.d_in, support, drawn, basis, self.always_on, values_seed=start.seed)
        return self.make_sae(dictionary, start)
