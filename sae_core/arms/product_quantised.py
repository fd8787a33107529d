from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.recoded import NEAREST, WEIGHTED, RecodedArm
from sae_core.bases import Basis
from sae_core.codebook import bits_a_value, product_quantised
from sae_core.dictionary import Dictionary
from sae_core.hashed import later
from sae_core.storage import Layout

_BITS = (4, 2, 1)  # for pieces of 2, 4 and 8 values


@dataclass(frozen=True)
class ProductQuantised(RecodedArm):
    """A trained dense SAE whose atoms become pieces of 8/bits values out of a codebook of 256, which is trained again.

    The codebook starts at the k-means of the trained atoms' pieces (`sae_core.codebook`); then it is trained with the
    biases, while the choice of pieces stays, dead latents excepted. It takes twice the training.

    Args:
        of: `DenseTied` or `DenseMatched`.
        bits: 4, 2 or 1 for a value's share of its piece's byte; the codebook comes on top.
        rounded_in: the basis whose coordinates are cut into pieces.
        pieces: `nearest`, or `weighted`: so chosen that the errors of an atom's pieces cancel on activations
            (`sae_core.codebook.weighted_entries`).
    """

    pieces: str = later(NEAREST)

    @property
    def suffix(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "_pq" if self.pieces == NEAREST else "_pq_weighted"

    def __post_init__(self):
        super().__post_init__()
        if self.bits not in _BITS:
            raise ValueError(f"sae.bits={self.bits} must be 4, 2 or 1: pieces of 2, 4 or 8 values, a byte each")
        if self.pieces not in (NEAREST, WEIGHTED):
            raise ValueError(f"sae.pieces={self.pieces} must be {NEAREST} or {WEIGHTED}")

    @property
    def _made(self) -> str:
        return "cut into pieces"

    @property
    def _follows(self) -> str:
        return self.pieces

    @property
    def width(self) -> int:
        """How many neighbouring values of an atom one piece has, which one byte of the file stands for."""
        return round(8 / self.bits)

    def layout(self, d_in: int) -> Layout:
        layout = self.of.layout(d_in)
        bits = bits_a_value(layout.n_latents, d_in, self.width)
        return layout._replace(value_bits=bits, codebook=self.width, basis=self.rounded_in)

    def _coded(self, atoms: torch.Tensor, seed: int, basis: Basis, moments: torch.Tensor | None) -> Dictionary:
        return product_quantised(atoms, self.width, seed, basis, moments)
