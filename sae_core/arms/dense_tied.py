from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import TOPK, Sizes, Start, TiedArm, checked_sizes, tied_encoder
from sae_core.dictionary import DenseDictionary
from sae_core.hashed import later
from sae_core.prefixes import prefix_sizes
from sae_core.sae import SAE


@dataclass(frozen=True)
class DenseTied(TiedArm):
    """Dense atoms and W_enc = W^T; m*n + n + m values are learned. `TiedArm` says what the other settings are."""

    n_latents: int
    k: int
    encoder: str = later(TOPK)
    prefixes: tuple[int | str, ...] = later(())
    name = "dense_tied"
    turns_freely = True

    def sizes(self, d_in: int) -> Sizes:
        prefix_sizes(self.prefixes, self.n_latents)
        return checked_sizes(d_in, self.n_latents, d_in, self.k)

    def make(self, start: Start) -> SAE:
        n_latents, _, k = self.sizes(start.d_in)
        dictionary = DenseDictionary(start.d_in, n_latents, torch.Generator().manual_seed(start.seed))
        encoder, prefixes = tied_encoder(dictionary, self.encoder), prefix_sizes(self.prefixes, n_latents)
        return SAE(dictionary, encoder, k, start.scale, prefixes=prefixes)
