from __future__ import annotations

import torch
from torch import nn

from sae_core.bases.base import Basis, BasisName
from sae_core.sizes import CellError

_EXTRA, _ROUNDS = 8, 6  # of the randomised search for principal directions


class Reflections(Basis):
    """R Householder reflections: Q^T = H_1 H_2 ... H_R with H_i = I - 2 v_i v_i^T / (v_i^T v_i).

    They turn the first R coordinates into chosen directions, the pool's principal ones, and leave the others nearly the
    neurons'. Q is orthogonal whatever the v_i are, so that they can be trained. It is applied in the compact WY form
    Q^T = I - V T V^T with V (d_in, R) and an upper triangular T, T^-1 = striu(V^T V) + diag(V^T V) / 2 (Schreiber and
    Van Loan 1989; Joffrain et al. 2006): two thin products.

    Args:
        vectors: (R, d_in), the v_i, none of them 0; they may be of any length.
        trained: whether they are trained with the rest.
    """

    follows_data = True

    def __init__(self, vectors: torch.Tensor, trained: bool = False):
        super().__init__()
        self.name = BasisName("reflections", len(vectors), trained)
        self.vectors = nn.Parameter(vectors, requires_grad=trained)

    @staticmethod
    def shape(name: BasisName, d_in: int) -> tuple[int, ...]:
        if name.number > d_in:
            raise CellError(f"sae.basis={name} must have at most {d_in} reflections (d_in)")
        return name.number, d_in

    @classmethod
    def make(cls, name: BasisName, d_in: int, seed: int, sample: torch.Tensor | None) -> Reflections:
        count, _ = cls.shape(name, d_in)
        if sample is None:
            directions = torch.randn(d_in, count, generator=torch.Generator().manual_seed(seed))
        else:
            directions = principal_directions(sample, count, seed)
        return cls(reflections_onto(directions), name.trained)

    def into(self, x: torch.Tensor) -> torch.Tensor:
        return self._reflect(x, transposed=False)

    def out_of(self, u: torch.Tensor) -> torch.Tensor:
        return self._reflect(u, transposed=True)

    def multiply_adds(self, d_in: int) -> int:
        """Count 2*R*m for the two products and R(R+1)/2 for T."""
        count = self.name.number
        return 2 * count * d_in + count * (count + 1) // 2

    def _reflect(self, x: torch.Tensor, transposed: bool) -> torch.Tensor:
        """Return x - x V T V^T, or with T transposed, for the rows x."""
        vectors = self.vectors
        products = vectors @ vectors.T
        inverse = products.triu(1) + torch.diag(products.diagonal() / 2)
        inverse = inverse.T if transposed else inverse
        along = torch.linalg.solve_triangular(inverse, x @ vectors.T, upper=not transposed, left=False)
        return torch.addmm(x, along, vectors, alpha=-1)


def reflections_onto(directions: torch.Tensor) -> torch.Tensor:
    """Return vectors (R, d_in) of reflections whose first R coordinates run along the span of `directions` (d_in, R).

    Coordinate i is, up to its sign, along direction i less its parts along those before it (QR decomposition).
    """
    packed, _ = torch.geqrf(directions.double())
    vectors = packed.tril(-1)
    vectors.diagonal().fill_(1.0)
    return vectors.T.to(directions.dtype).contiguous()


@torch.no_grad()
def principal_directions(sample: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Return the `count` directions of the largest variance in `sample` (tokens, d_in): float32 (d_in, count).

    They are found by a randomised search with power iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4), which
    takes thin products only. Directions in which the sample has no variance are arbitrary.
    """
    h = sample.detach().cpu().float()
    h = h - h.mean(0)
    width = min(count + _EXTRA, h.shape[1])
    found = torch.randn(h.shape[1], width, generator=torch.Generator().manual_seed(seed))
    for _ in range(_ROUNDS):
        found = torch.linalg.qr(h.T @ (h @ torch.linalg.qr(found).Q)).Q
    within = (h @ found).double()
    _, turned = torch.linalg.eigh(within.T @ within)
    return found @ turned.flip(1)[:, :count].float()
