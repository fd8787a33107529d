from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SparseArm, tied
from sae_core.dictionary import Drawn, FrozenDictionary
from sae_core.sae import SAE
from sae_core.storage import FROM_SEED, Layout
from sae_core.supports import expander_support


@dataclass(frozen=True)
class FrozenRandom(SparseArm):
    """The expander's support with values that a seed draws and nothing changes: only the biases are learned.

    n + m values are stored, or with a pursuit as encoder the m of b_dec alone.
    """

    name = "frozen_random"
    can_be_quantised = False

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(support=FROM_SEED, value_bits=0)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, degree, k = self.sizes(d_in)
        support = expander_support(d_in, n_latents, degree, seed)
        dictionary = FrozenDictionary(d_in, support, Drawn("expander", seed))
        return SAE(dictionary, tied(dictionary, self.encoder), k, scale)
