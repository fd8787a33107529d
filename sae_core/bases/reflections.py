from __future__ import annotations

import torch
from torch import nn

from sae_core.bases.base import BASIS_BITS, Basis, BasisName
from sae_core.bases.principal import principal_directions
from sae_core.rounding import whole_numbers
from sae_core.sizes import CellError


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

    def leading(self, x: torch.Tensor, count: int) -> torch.Tensor:
        """Take products with the first `count` rows of Q, which are made first; for few rows these cost less."""
        return x @ self.out_of(torch.eye(count, x.shape[1], dtype=x.dtype, device=x.device)).T

    def leading_multiply_adds(self, d_in: int, count: int) -> int:
        return count * d_in

    def multiply_adds(self, d_in: int) -> int:
        """Count 2*R*m for the two products and R(R+1)/2 for T."""
        count = self.name.number
        return 2 * count * d_in + count * (count + 1) // 2

    def whole_numbers(self) -> torch.Tensor:
        """Round each vector by itself (`sae_core.rounding`); its length does not matter."""
        return whole_numbers(self.vectors, BASIS_BITS)

    def _reflect(self, x: torch.Tensor, transposed: bool) -> torch.Tensor:
        """Return x - x V T V^T, or with T transposed, for the rows x.

        T is solved with in float32 at least: torch solves in no half precision.
        """
        vectors = self.vectors
        solved = torch.promote_types(vectors.dtype, torch.float32)
        products = vectors.to(solved) @ vectors.T.to(solved)
        inverse = products.triu(1) + torch.diag(products.diagonal() / 2)
        inverse = inverse.T if transposed else inverse
        along = torch.linalg.solve_triangular(inverse, (x @ vectors.T).to(solved), upper=not transposed, left=False)
        return torch.addmm(x, along.to(x.dtype), vectors, alpha=-1)


def reflections_onto(directions: torch.Tensor) -> torch.Tensor:
    """Return vectors (R, d_in) of reflections whose first R coordinates run along the span of `directions` (d_in, R).

    Coordinate i is, up to its sign, along direction i less its parts along those before it (QR decomposition).
    """
    packed, _ = torch.geqrf(directions.double())
    vectors = packed.tril(-1)
    vectors.diagonal().fill_(1.0)
    return vectors.T.to(directions.dtype).contiguous()
