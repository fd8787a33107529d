"""Vectors as whole numbers of few bits, after training and in it: atoms by their direction, encoder rows by length too.

An atom is used at unit norm, so that its whole numbers are all there is to it. A row of an encoder's weights is its
whole numbers times a factor of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

_CLIPS = torch.linspace(0.3, 1.0, 29)  # shares of the largest magnitude that become the largest whole number
_WIDE_CLIPS = torch.linspace(0.1, 1.0, 37)  # for grids so coarse that more clipping pays


class Grid(NamedTuple):
    """The whole numbers that values of few bits may be: all of -largest..largest, or the odd ones among them."""

    stored_bits: float  # that a value takes in a file; a byte holds five of three numbers each, so that these take 1.6
    largest: int
    odd: bool
    unit: float  # 1 on the grid over the values' root mean square, for the best mean cosine to Gaussian values

    def nearest(self, scaled: torch.Tensor) -> torch.Tensor:
        """Return the grid's number nearest to each entry, where halves between odd numbers are rounded up."""
        if self.odd:
            return scaled.mul(0.5).floor_().mul_(2).add_(1).clamp_(-self.largest, self.largest)
        return scaled.round().clamp_(-self.largest, self.largest)


# By the bits of a value, log2 of how many numbers there are. The unit of 1 bit is the best scale of a Gaussian's signs.
# That of 16 bits is three times the best one, so that values of up to 16 times the root mean square are not clipped.
GRIDS: dict[float, Grid] = {
    16: Grid(16, 32767, False, 0.0005),
    8: Grid(8, 127, False, 0.0309),
    6: Grid(6, 31, False, 0.1053),
    5: Grid(5, 15, False, 0.1937),
    4: Grid(4, 7, False, 0.3534),
    3: Grid(3, 3, False, 0.6491),
    2: Grid(2, 3, True, 0.4978),
    1.58: Grid(1.6, 1, False, 1.224),
    1: Grid(1, 1, True, 0.7979),
}
STORED_GRIDS = {grid.stored_bits: grid for grid in GRIDS.values()}


class Rounding(NamedTuple):
    """The rounding of an SAE's values while they are trained."""

    bits: float  # see `GRIDS`
    start: float  # share of the training after which values are rounded
    encoder_bits: float | None = None  # of an encoder's own weights; `bits` unless given

    @property
    def grids(self) -> Grids:
        """What values are rounded to once rounding has started."""
        return grids_of(self.bits, self.encoder_bits)

    def started(self, step: int, steps: int) -> bool:
        """Tell whether values are rounded in `step` of `steps`, counted from 0."""
        return step >= self.start * steps


class Grids(NamedTuple):
    """What the values of atoms and the encoder's own weights are rounded to."""

    atoms: Grid
    encoder: Grid


def grid_of(bits: float) -> Grid:
    """Return the grid of values of so many bits. Raises ValueError where there is none."""
    if isinstance(bits, bool) or bits not in GRIDS:
        *most, last = map(str, GRIDS)
        raise ValueError(f"bits={bits} must be {', '.join(most)} or {last}")
    return GRIDS[bits]


def grids_of(bits: float, encoder_bits: float | None = None) -> Grids:
    """Return the grids of atoms and of an encoder's own weights, which has the same bits unless told otherwise."""
    return Grids(grid_of(bits), grid_of(bits if encoder_bits is None else encoder_bits))


def whole_numbers(values: torch.Tensor, bits: float) -> torch.Tensor:
    """Return each row of values (n, d) as numbers of the grid of so many bits, in values' dtype.

    With q the grid's largest number, the row v becomes the numbers nearest to q * v / (c * max |v|), c being the share
    in `_CLIPS` or `_WIDE_CLIPS` that gives the largest cosine to v: with few bits it pays to clip the largest values. A
    row of zeros stays so on a grid that has 0.
    """
    grid = grid_of(bits)
    values = values / values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    best, cosine = torch.zeros_like(values), values.new_full((len(values), 1), -1.0)
    clips = _CLIPS if grid.stored_bits >= 4 else _WIDE_CLIPS
    for clip in clips.flip(0).tolist():  # no clipping comes first, so that it wins a tie
        rounded = grid.nearest(values * (grid.largest / clip))
        found = torch.cosine_similarity(rounded.double(), values.double()).to(values.dtype)[:, None]
        better = found > cosine
        best, cosine = torch.where(better, rounded, best), torch.where(better, found, cosine)
    return best


def straight_through(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return each row of values (n, d) on the grid, by one division: the numbers nearest to v / (unit * rms(v)).

    The gradient passes as if nothing were rounded (the straight-through estimator: Bengio et al. 2013, arXiv
    1308.3432): that of v is the gradient of v / (unit * rms(v)) with the root mean square held constant.
    """
    return _StraightThrough.apply(values, grid)  # type: ignore[return-value]


def straight_through_rows(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Return what `straight_through` does times unit * rms(v), so that each row is near what it was.

    The gradient of v is that of the result.
    """
    return _StraightThroughRows.apply(values, grid)  # type: ignore[return-value]


def with_factors(values: torch.Tensor, bits: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `whole_numbers` of values (n, d), and the factors (n,) that bring them nearest to the values."""
    numbers = whole_numbers(values, bits)
    factors = (values * numbers).sum(1) / numbers.square().sum(1).clamp_min(1.0)
    return numbers, factors


def on_grid(values: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `straight_through` does, without a gradient, and the factor of its gradient by rows: (n, 1)."""
    rms = torch.linalg.vector_norm(values, dim=1, keepdim=True).div_(values.shape[1] ** 0.5)
    inverse = rms.mul_(grid.unit).clamp_min_(torch.finfo(values.dtype).tiny).reciprocal_()
    return grid.nearest(values * inverse), inverse


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, grid: Grid) -> torch.Tensor:
        numbers, inverse = on_grid(values, grid)
        ctx.save_for_backward(inverse)
        return numbers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (inverse,) = ctx.saved_tensors
        return grad * inverse, None


class _StraightThroughRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, grid: Grid) -> torch.Tensor:
        numbers, inverse = on_grid(values, grid)
        return numbers * inverse.reciprocal()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad, None
