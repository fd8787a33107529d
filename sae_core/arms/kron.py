from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import (
    BATCH_TOPK,
    TOPK,
    Arm,
    Sizes,
    Start,
    checked_sizes,
    label_with_encoder,
    one_shot_encoder,
    one_shot_name,
)
from sae_core.dictionary import DenseDictionary
from sae_core.hashed import later
from sae_core.kronecker import Heads, KroneckerTopK
from sae_core.sae import SAE
from sae_core.sizes import CellError
from sae_core.storage import Layout

_USUAL = Heads(2, 4)  # the sizes of a head that labels do not name


@dataclass(frozen=True)
class Kron(Arm):
    """KronSAE (arXiv 2505.22255): dense atoms, and an encoder whose latents are conjunctions of fewer pre-latents.

    What it saves is the encoder: with base=2 and extension=4, 6 rows for 8 latents; with 16 and 16, 1 row for 8. The
    decoder stays dense, so that m*n values are learned beside them. Each atom starts at the sum of the two rows behind
    its latent, at unit norm, as in the paper's appendix H.

    Args:
        base, extension: pre-latents of each of the two kinds in a head; base*extension must divide n.
        encoder: `topk`, or `batch_topk` for k latents a token on average.
    """

    n_latents: int
    k: int
    base: int = _USUAL.base
    extension: int = _USUAL.extension
    encoder: str = later(TOPK)
    name = "kron"
    can_be_quantised = False

    def __post_init__(self):
        one_shot_name(self.encoder)
        for name in ("base", "extension"):
            if getattr(self, name) < 1:
                raise ValueError(f"sae.{name}={getattr(self, name)} must be at least 1")

    @property
    def label(self) -> str:
        sizes = "" if self.heads == _USUAL else f"@{self.base}x{self.extension}"
        return label_with_encoder(self.name + sizes, self.encoder)

    @property
    def heads(self) -> Heads:
        """The sizes of a head."""
        return Heads(self.base, self.extension)

    def sizes(self, d_in: int) -> Sizes:
        if self.n_latents % self.heads.latents:
            raise CellError(
                f"sae.base*sae.extension={self.heads.latents} must divide n={self.n_latents}: each head has that many"
            )
        return checked_sizes(d_in, self.n_latents, d_in, self.k)

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(own_encoder=True, heads=self.heads, batch_topk=self.encoder == BATCH_TOPK)

    def make(self, start: Start) -> SAE:
        n_latents, _, k = self.sizes(start.d_in)
        generator = torch.Generator().manual_seed(start.seed)
        dictionary = DenseDictionary(start.d_in, n_latents, generator)
        encoder = KroneckerTopK(start.d_in, n_latents, self.heads, generator)
        dictionary.values.data.copy_(torch.nn.functional.normalize(encoder.atoms(), dim=1))
        return SAE(dictionary, one_shot_encoder(encoder, self.encoder), k, start.scale)
