from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import TOPK, Arm, DerivedArm, tied_encoder
from sae_core.arms.dense_matched import DenseMatched
from sae_core.arms.dense_tied import DenseTied
from sae_core.arms.rounded import RoundedArm
from sae_core.bases import NEURONS
from sae_core.codebook import bits_a_value, product_quantised
from sae_core.encoders import ByPursuit, TiedTopK
from sae_core.sae import SAE
from sae_core.storage import Layout

_BITS = (4, 2, 1)  # for pieces of 2, 4 and 8 values


@dataclass(frozen=True)
class ProductQuantised(RoundedArm, DerivedArm):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A trained dense SAE whose atoms become pieces of 8/bits values out of a codebook of 256, which is trained again.

    The codebook starts at the k-means of the trained atoms' pieces (`sae_core.codebook`); then it is trained with the
    biases, while the choice of pieces stays, dead latents excepted. It takes twice the training.

    Args:
        of: `DenseTied` or `DenseMatched`.
        bits: 4, 2 or 1 for a value's share of its piece's byte; the codebook comes on top.
    """

    suffix = "_pq"

    def __post_init__(self):
        super().__post_init__()
        if self.bits not in _BITS:
            raise ValueError(f"sae.bits={self.bits} must be 4, 2 or 1: pieces of 2, 4 or 8 values, a byte each")
        if self.rounded_in != NEURONS:
            raise ValueError(f"sae.rounded_in={self.rounded_in} must be {NEURONS} where atoms are pieces of a codebook")
        if not isinstance(self.of, (DenseTied, DenseMatched)):
            raise ValueError(f"sae.of={self.of.name} must have dense atoms to be cut into pieces")

    @property
    def width(self) -> int:
        """How many values a piece has."""
        return round(8 / self.bits)

    @property
    def starts_from(self) -> Arm:
        return self.of

    def layout(self, d_in: int) -> Layout:
        layout = self.of.layout(d_in)
        bits = bits_a_value(layout.n_latents, d_in, self.width)
        return layout._replace(value_bits=bits, codebook=self.width)

    @torch.no_grad()
    def derive(self, trained: SAE, seed: int = 0, sample: torch.Tensor | None = None) -> SAE:
        dictionary = product_quantised(trained.dictionary.unit_values().detach().cpu(), self.width, seed)
        encoder = tied_encoder(dictionary, trained.encoder.name if isinstance(trained.encoder, ByPursuit) else TOPK)
        if isinstance(encoder, TiedTopK) and isinstance(trained.encoder, TiedTopK):
            encoder.b_enc.copy_(trained.encoder.b_enc.cpu())
        sae = SAE(dictionary, encoder, trained.k, float(trained.scale), trained.backend)
        sae.b_dec.copy_(trained.b_dec.cpu())
        return sae.to(trained.b_dec.device)
