from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import Arm, Sizes, checked
from sae_core.dictionary import Drawn, FrozenDictionary
from sae_core.encoders import TiedTopK
from sae_core.sae import SAE
from sae_core.supports import check_degree, expander_support


@dataclass(frozen=True)
class FrozenRandom(Arm):
    """The expander's support with values that a seed draws and nothing changes: only the biases are learned, n + m."""

    n_latents: int
    degree: int
    k: int
    name = "frozen_random"

    def sizes(self, d_in: int) -> Sizes:
        check_degree(d_in, self.degree)
        return checked(self.n_latents, self.degree, self.k)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, degree, k = self.sizes(d_in)
        support = expander_support(d_in, n_latents, degree, seed)
        dictionary = FrozenDictionary(d_in, support, Drawn("expander", seed))
        return SAE(dictionary, TiedTopK(dictionary), k, scale)
