"""Dense atoms by product quantisation: each is cut into short pieces, and a piece is one of 256 of a shared codebook.

A file holds the codebook and one byte a piece. With pieces of 4 values that is 2 bits a value, with 8 values 1 bit
(Jegou, Douze and Schmid 2011, Product quantization for nearest neighbor search; here one codebook serves all places).

Which entry a piece becomes can follow the activations: `weighted_entries` lets later pieces make up for the errors of
earlier ones, by how directions go together in them (GPTQ, arXiv 2210.17323; GPTVQ, arXiv 2402.15319). Encoders multiply
atoms with activations, so that latents then stay more like those of the float atoms.
"""

from __future__ import annotations

import torch
from torch import nn

from sae_core.bases import Basis, Neurons
from sae_core.dictionary import Dictionary
from sae_core.error_feedback import feedback_factor
from sae_core.kernels.dispatch import get_backend

ENTRIES = 256  # of a codebook: one byte names one
_ROUNDS = 25  # of k-means
_SAMPLE = 1 << 16  # most pieces that k-means looks at
_CHUNK = 1 << 14  # pieces that are compared with the codebook at once


class CodebookDictionary(Dictionary):
    """Dense atoms of pieces out of a codebook, which is what is trained.

    Args:
        codebook: (ENTRIES, width) float32.
        chosen: int (n_latents, ceil(d_in / width)), the entries that an atom is made of, in order; what the last one
            has beyond d_in is not used.
        d_in: rows of the dictionary.
        basis: the basis that the pieces are coordinates in; the neurons' unless given.
    """

    rows_of_atoms = ("chosen",)

    chosen: torch.Tensor

    def __init__(self, codebook: torch.Tensor, chosen: torch.Tensor, d_in: int, basis: Basis | None = None):
        super().__init__()
        self.d_in, self.support, self.drawn, self.basis = d_in, None, None, basis or Neurons()
        self.codebook = nn.Parameter(codebook)
        self.register_buffer("chosen", chosen.to(torch.int64))

    @property
    def value_bits(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return bits_a_value(self.n_latents, self.d_in, self.codebook.shape[1])

    @property
    def values(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return nn.functional.embedding(self.chosen, self.codebook).flatten(1)[:, : self.d_in]

    @property
    def n_latents(self) -> int:
        return len(self.chosen)

    @property
    def degree(self) -> int:
        return self.d_in

    def unit_values(self, backend: str = "auto") -> torch.Tensor:
        return get_backend(backend, self.codebook.device).unit_norm(self.values.contiguous())

    @torch.no_grad()
    def set_atoms(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Aim `latents` (r,) at `directions` (r, d_in), as nearly as the codebook allows at the other atoms' norm."""
        directions = nn.functional.normalize(self.coordinates(directions), dim=1) * self.values.norm(dim=1).mean()
        pieces = pieces_of(directions, self.codebook.shape[1])
        self.chosen[latents] = nearest_entries(pieces, self.codebook).view(len(latents), -1)


def bits_a_value(n_latents: int, d_in: int, width: int) -> float:
    """Return the bits that a value of an atom takes: a byte a piece, and its share of the codebook."""
    pieces = n_latents * -(-d_in // width)
    return 8 * (pieces + 4 * ENTRIES * width) / (n_latents * d_in)


def pieces_of(atoms: torch.Tensor, width: int) -> torch.Tensor:
    """Cut atoms (n, d_in), filled up with zeros, into pieces: (n * ceil(d_in / width), width)."""
    return nn.functional.pad(atoms, (0, -atoms.shape[1] % width)).reshape(-1, width)


@torch.no_grad()
def product_quantised(
    atoms: torch.Tensor,
    width: int,
    seed: int,
    basis: Basis | None = None,
    moments: torch.Tensor | None = None,
) -> CodebookDictionary:
    """Return a dictionary of nearly the atoms (n, d_in): their pieces are entries of a codebook that k-means makes.

    Atoms are coordinates in `basis`. Pieces become the nearest entries or, where there are `moments` (d_in, d_in), the
    entries that `weighted_entries` chooses.

    The codebook starts at random pieces of `seed`; at most _SAMPLE pieces are looked at.
    """
    pieces, generator = pieces_of(atoms, width), torch.Generator().manual_seed(seed)
    sample = pieces[torch.randperm(len(pieces), generator=generator)[:_SAMPLE].to(pieces.device)]
    codebook = pieces.new_zeros(ENTRIES, width)
    codebook[: len(sample)] = sample[:ENTRIES]
    for _ in range(_ROUNDS):
        nearest = nearest_entries(sample, codebook)
        counts = torch.bincount(nearest, minlength=ENTRIES)[:, None]
        means = torch.zeros_like(codebook).index_add_(0, nearest, sample) / counts.clamp_min(1)
        codebook = torch.where(counts > 0, means, codebook)
    if moments is None:
        chosen = nearest_entries(pieces, codebook).view(len(atoms), -1)
    else:
        chosen = weighted_entries(atoms, codebook, moments)
    return CodebookDictionary(codebook, chosen, atoms.shape[1], basis)


def nearest_entries(pieces: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Return which entry of the codebook is nearest to each of pieces (count, width): int64 (count,)."""
    squares = codebook.square().sum(1)
    return torch.cat([torch.addmm(squares, part, codebook.T, alpha=-2).argmin(1) for part in pieces.split(_CHUNK)])


@torch.no_grad()
def weighted_entries(atoms: torch.Tensor, codebook: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Return the entries for the pieces of atoms (n, d_in), for small errors e^T H e of whole atoms: (n, pieces).

    Pieces are chosen one after another. The rest of the atom is moved each time to where e^T H e is smallest given the
    errors so far, so that a piece is the nearest to what is best there, not to the atom.

    Args:
        codebook: (ENTRIES, width).
        moments: (d_in, d_in), see `feedback_factor`.
    """
    d_in, width, factor = atoms.shape[1], codebook.shape[1], feedback_factor(moments)
    rest, entries, chosen = atoms.double().clone(), codebook.double(), list[torch.Tensor]()
    for first in range(0, d_in, width):
        last = min(first + width, d_in)
        turn = torch.linalg.inv(factor[first:last, first:last])  # an error counts as long as it is after this
        piece, choices = rest[:, first:last], entries[:, : last - first]
        chosen.append(nearest_entries(piece @ turn, choices @ turn))
        errors = (piece - choices[chosen[-1]]) @ turn
        rest[:, last:] -= errors @ factor[first:last, last:]
    return torch.stack(chosen, 1)
