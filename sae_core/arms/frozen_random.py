from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SparseArm, tied_encoder
from sae_core.dictionary import Drawn, FrozenDictionary
from sae_core.sae import SAE
from sae_core.storage import FROM_SEED, Layout
from sae_core.supports import expander_support


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

    def build(self, d_in: int, seed: int, scale: float = 1.0, support_seed: int | None = None) -> SAE:
        n_latents, degree, k = self.sizes(d_in)
        drawn = Drawn("expander", seed if support_seed is None else support_seed)
        support = expander_support(d_in, n_latents, degree, drawn.seed)
        dictionary = FrozenDictionary(d_in, support, drawn, seed)
        return SAE(dictionary, tied_encoder(dictionary, self.encoder), k, scale)
