from __future__ import annotations

import math

import torch
from torch import nn

from sae_core.bases.base import Basis, BasisName
from sae_core.bases.blocks import cayley, flat_in_blocks, in_blocks, skew_values
from sae_core.bases.principal import principal_rows
from sae_core.sizes import CellError

_PRINCIPAL, _ROUNDS = 64, 50  # directions that a start follows, and rounds that it takes
_STEP = math.pi / 256  # half of the angle of a whole number


class Monarch(Basis):
    """Two block-diagonal orthogonal factors with a permutation between them: a Monarch matrix (Dao et al. 2022).

    With m = p*q, p <= q as near each other as can be, x stands as p rows of q values. The first factor turns each row
    by a block of its own (q*q), the second each column (p*p); coordinates come column by column. A block is Cayley's
    transform of a skew-symmetric matrix, whose values are what is stored, so that Q is orthogonal whatever they are:
    m(p + q - 2)/2 values, about m*sqrt(m). Blocks that need not be orthogonal would take twice as many.

    The start follows the pool: `gathering_blocks` makes Q gather the variance along the pool's principal directions in
    few coordinates, mostly the first.

    Args:
        values: (m(p + q - 2)/2,), those below the diagonals of the first factor's blocks, then the second's.
        widths: p and q.
        trained: whether they are trained with the rest.
    """

    follows_data = True
    solves = True

    def __init__(self, values: torch.Tensor, widths: tuple[int, int], trained: bool = False):
        super().__init__()
        self.name, self.widths = BasisName("monarch", trained=trained), widths
        self.values = nn.Parameter(values, requires_grad=trained)

    @staticmethod
    def shape(name: BasisName, d_in: int) -> tuple[int, ...]:
        return (d_in * (sum(block_widths(d_in)) - 2) // 2,)

    @classmethod
    def make(cls, name: BasisName, d_in: int, seed: int, sample: torch.Tensor | None) -> Monarch:
        widths = block_widths(d_in)
        if sample is None:
            drawn = torch.randn(cls.shape(name, d_in), generator=torch.Generator().manual_seed(seed))
            return cls(drawn / math.sqrt(widths[1]), widths, name.trained)
        first, second = gathering_blocks(principal_rows(sample, min(d_in, _PRINCIPAL), seed), widths)
        below, signs = skew_values(first)
        below_too, _ = skew_values(second * signs.T[:, None, :])
        return cls(torch.cat((below.flatten(), below_too.flatten())).float(), widths, name.trained)

    def into(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self._factors(x.dtype)
        rows = in_blocks(x.view(len(x), *self.widths), first)
        return flat_in_blocks(rows.transpose(1, 2), second)

    def out_of(self, u: torch.Tensor) -> torch.Tensor:
        first, second = self._factors(u.dtype)
        columns = in_blocks(u.view(len(u), *self.widths[::-1]), second.mT)
        return flat_in_blocks(columns.transpose(1, 2), first.mT)

    def multiply_adds(self, d_in: int) -> int:
        """Count m(p + q); the blocks are made once for all rows."""
        return d_in * sum(self.widths)

    def whole_numbers(self) -> torch.Tensor:
        """Round the angles 2 * arctan(value), in -pi..pi, to steps of pi/128: values of any size have one."""
        return (self.values.atan() / _STEP).round().clamp(-127, 127)

    def _factors(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the blocks of the first factor (p, q, q) and of the second (q, p, p)."""
        short, long = self.widths
        values = self.values if self.value_bits == 32 else (self.values.double() * _STEP).tan()
        first, second = values.split([short * long * (w - 1) // 2 for w in (long, short)])
        return cayley(first.view(short, -1), long).to(dtype), cayley(second.view(long, -1), short).to(dtype)


def block_widths(d_in: int) -> tuple[int, int]:
    """Return p <= q, as near each other as can be, with p*q = d_in.

    Raises:
        CellError: d_in is 1, or q is more than 8 times p, which would make blocks that are hardly smaller than Q.
    """
    short = max(p for p in range(1, math.isqrt(d_in) + 1) if d_in % p == 0)
    long = d_in // short
    if d_in == 1 or long > 8 * short:
        raise CellError(
            f"sae.basis=monarch needs two block widths p and q with p*q = {d_in} (d_in), at most 8 times apart and not "
            f"both 1; the nearest are {short} and {long}"
        )
    return short, long


def gathering_blocks(rows: torch.Tensor, widths: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two block factors that gather the energy of a few rows in few coordinates.

    They make the sum over coordinates of the squared energy sum_r (Q x_r)_i^2 large. Each factor in turn gets better
    while the other stays: the second by the principal directions of each of its blocks, which are the best; the first
    by the orthogonal blocks nearest to the gradient, which never make a convex function smaller (Journee et al. 2010,
    Generalized power method). The first starts at the principal directions of its own blocks.

    Args:
        rows: float64 (r, m).
        widths: p and q.

    Returns:
        float64 (p, q, q) and (q, p, p); the coordinates of the second's first blocks have the most energy.
    """
    x = rows.view(len(rows), *widths)
    first = _principal_blocks(x)
    for _ in range(_ROUNDS):
        columns = in_blocks(x, first).transpose(1, 2)
        second = _principal_blocks(columns)
        coordinates = in_blocks(columns, second)
        pull = in_blocks(coordinates * coordinates.square().sum(0), second.mT)
        u, _, v = torch.linalg.svd(torch.einsum("rji,rik->ijk", pull, x))
        first = u @ v
    columns = in_blocks(x, first).transpose(1, 2)
    second = _principal_blocks(columns)
    order = in_blocks(columns, second)[:, :, 0].square().sum(0).argsort(descending=True)
    return first[:, order], second[order]


def _principal_blocks(x: torch.Tensor) -> torch.Tensor:
    """Return the principal directions of each block of x (rows, b, w), largest first, as rows: (b, w, w)."""
    _, directions = torch.linalg.eigh(torch.einsum("rbi,rbj->bij", x, x))
    return directions.flip(2).mT
