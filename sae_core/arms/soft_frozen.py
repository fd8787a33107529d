from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import Sizes, SparseArm, Start
from sae_core.dictionary import NearDictionary
from sae_core.hashed import later
from sae_core.sae import SAE
from sae_core.storage import FROM_SEED, Layout


@dataclass(frozen=True)
class SoftFrozen(SparseArm):
    """A control: an expander whose atoms must keep a cosine of at least `cosine` with their random start.

    What such a dictionary scores, an SAE can score without having found features: its atoms are a random dictionary's,
    a little adjusted (arXiv 2602.14111). degree = d_in makes it dense.
    """

    cosine: float = later(0.8)

    name = "soft_frozen"
    draws_support = True

    def sizes(self, d_in: int) -> Sizes:
        if not 0 <= self.cosine <= 1:
            raise ValueError(f"sae.cosine={self.cosine} must be in 0..1")
        return super().sizes(d_in)

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(support=FROM_SEED)

    def make(self, start: Start) -> SAE:
        basis, drawn, support = self.draw(start, "expander")
        generator = torch.Generator().manual_seed(start.seed)
        dictionary = NearDictionary(start.d_in, support, generator, drawn, self.cosine, basis, self.always_on)
        return self.make_sae(dictionary, start)
