from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import TOPK, Sizes, TiedArm, checked, later, tied
from sae_core.dictionary import DenseDictionary
from sae_core.sae import SAE


@dataclass(frozen=True)
class DenseTied(TiedArm):
    """Dense atoms, W_enc = W^T; learns m*n + n + m values. `encoder` as in `TiedArm`."""

    n_latents: int
    k: int
    encoder: str = later(TOPK)
    name = "dense_tied"

    def sizes(self, d_in: int) -> Sizes:
        return checked(self.n_latents, d_in, self.k)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, _, k = self.sizes(d_in)
        dictionary = DenseDictionary(d_in, n_latents, torch.Generator().manual_seed(seed))
        return SAE(dictionary, tied(dictionary, self.encoder), k, scale)
