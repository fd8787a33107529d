from __future__ import annotations

import math

import torch
from torch import nn

from sae_core.bases.base import Basis, BasisName
from sae_core.bases.blocks import flat_in_blocks, in_blocks
from sae_core.bases.principal import principal_rows
from sae_core.sizes import CellError

_PASSES = 2
_PRINCIPAL, _ROUNDS = 64, 50  # directions that a start follows, and rounds over all levels that it takes
_STEP = math.pi / 128  # the angle of a whole number
_MOST_LEVELS = 6  # that are multiplied out: blocks of 64


class Butterfly(Basis):
    """Levels of rotations of two coordinates each: a butterfly factorisation (Dao et al. 2019).

    A level turns the coordinates i and i + ceil(m/2) with each other, by an angle of their own, and puts them in the
    places 2i and 2i + 1; where m is odd, the middle coordinate comes last as it is. ceil(log2 m) such levels, a pass,
    lead from every coordinate to every other for any m, as in a generalised de Bruijn graph; where m is a power of two
    they are those of the fast Fourier transform. There are two passes, since a single one follows the pool much less:
    about m*log2(m) angles, which are what is stored. Q is orthogonal whatever they are.

    The start follows the pool: `gathering_angles` makes Q gather the variance along the pool's principal directions in
    few coordinates. The first of them have most where m is a power of two; for another m they may lie anywhere.

    Args:
        angles: (levels, m // 2), in radians.
        d_in: the number of coordinates, m.
        trained: whether the angles are trained with the rest.
    """

    follows_data = True

    def __init__(self, angles: torch.Tensor, d_in: int, trained: bool = False):
        super().__init__()
        self.name, self.d_in = BasisName("butterfly", trained=trained), d_in
        self.angles = nn.Parameter(angles, requires_grad=trained)

    @staticmethod
    def shape(name: BasisName, d_in: int) -> tuple[int, ...]:
        if d_in < 2:
            raise CellError(f"sae.basis={name} needs at least 2 coordinates, and d_in={d_in}")
        return _PASSES * math.ceil(math.log2(d_in)), d_in // 2

    @classmethod
    def make(cls, name: BasisName, d_in: int, seed: int, sample: torch.Tensor | None) -> Butterfly:
        levels, pairs = cls.shape(name, d_in)
        if sample is None:
            angles = torch.rand(levels, pairs, generator=torch.Generator().manual_seed(seed)) * 2 * math.pi
        else:
            angles = gathering_angles(principal_rows(sample, min(d_in, _PRINCIPAL), seed), levels).float()
        return cls(angles, d_in, name.trained)

    def into(self, x: torch.Tensor) -> torch.Tensor:
        if self.d_in % 2:
            for phases in self._phases():
                x = turned(x, phases)
            return x
        *groups, last = self._blocks(x.dtype)
        x = x.T.contiguous().T  # what `in_blocks` reads fastest
        for blocks in groups:
            x = in_blocks(_gathered(x, blocks), blocks).flatten(1)
        return flat_in_blocks(_gathered(x, last), last)

    def out_of(self, u: torch.Tensor) -> torch.Tensor:
        if self.d_in % 2:
            for phases in self._phases().flip(0):
                u = turned_back(u, phases)
            return u
        for blocks in reversed(self._blocks(u.dtype)):
            u = in_blocks(u.unflatten(1, (-1, blocks.shape[1])), blocks.mT).transpose(1, 2).flatten(1)
        return u.contiguous()

    def multiply_adds(self, d_in: int) -> int:
        """Count four for each rotation; the dense products that take their place here (`_blocks`) are more."""
        return 4 * self.angles.numel()

    def whole_numbers(self) -> torch.Tensor:
        """Round the angles to 256 steps of the circle, -128..127."""
        return torch.remainder((self.angles / _STEP).round() + 128, 256) - 128

    def _phases(self) -> torch.Tensor:
        """Return exp(-i * angle) of each level's angles: complex128 (levels, m // 2)."""
        return _phases(self.angles.double() * (1 if self.value_bits == 32 else _STEP))

    def _blocks(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """Return the levels of an even m multiplied out in groups: few dense products in place of many rotations.

        If 2^g divides m, g levels take the coordinates i + j*m/2^g, over all j, to the places from i*2^g on. They are
        applied to 2^g rows, of which row j has ones where the j-th coordinates lie: that gives all blocks at once.

        Returns:
            (m / 2^g, 2^g, 2^g) for each group.
        """
        phases, groups = self._phases(), []
        halvings = (self.d_in & -self.d_in).bit_length() - 1
        for group in phases.tensor_split(-(-len(phases) // min(_MOST_LEVELS, halvings))):
            width = 2 ** len(group)
            ones = torch.eye(width, dtype=torch.float64, device=phases.device)
            found = ones.repeat_interleave(self.d_in // width, 1)
            for level in group:
                found = turned(found, level)
            groups.append(found.view(width, -1, width).permute(1, 2, 0).to(dtype))
        return groups


def _gathered(x: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """Return the coordinates that each of a group's blocks (b, w, w) takes: (rows, b, w)."""
    return x.unflatten(1, (blocks.shape[1], -1)).transpose(1, 2)


def turned(x: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
    """Return the rows x (rows, m) after a level; `phases` (m // 2,) are exp(-i * angle).

    Coordinates a and b that are turned with each other are a complex number a + ib.
    """
    pairs = len(phases)
    found = _complex(x) * phases.to(x.dtype.to_complex())
    together = torch.view_as_real(found).flatten(1)
    return torch.cat((together, x[:, pairs:-pairs]), 1) if x.shape[1] % 2 else together


def turned_back(u: torch.Tensor, phases: torch.Tensor) -> torch.Tensor:
    """Undo `turned`."""
    found = _complex_pairs(u) * phases.to(u.dtype.to_complex()).conj()
    return torch.cat((found.real, u[:, 2 * len(phases) :], found.imag), 1)


def _complex(x: torch.Tensor) -> torch.Tensor:
    """Return a + ib of the coordinates that a level turns with each other: (rows, m // 2)."""
    pairs = x.shape[1] // 2
    return torch.complex(x[:, :pairs], x[:, -pairs:])


def _complex_pairs(u: torch.Tensor) -> torch.Tensor:
    """Return a + ib of the coordinates that a level has turned with each other: (rows, m // 2)."""
    end = u.shape[1] // 2 * 2
    return torch.complex(u[:, :end:2], u[:, 1:end:2])


def _phases(angles: torch.Tensor) -> torch.Tensor:
    return torch.polar(torch.ones_like(angles), -angles)


def gathering_angles(rows: torch.Tensor, levels: int) -> torch.Tensor:
    """Return angles that gather the energy of a few rows in few coordinates.

    Level after level starts at the angle that leaves two coordinates uncorrelated, the first with more energy (Jacobi).
    Then rounds make the sum over coordinates of the squared energy sum_r (Q x_r)_i^2 larger: in each, every level in
    turn, from the last one, takes the best angles for the sum's gradient at the round's Q. The sum is convex in Q, so
    that no round makes it smaller (Journee et al. 2010, Generalized power method).

    Args:
        rows: float64 (r, m).

    Returns:
        float64 (levels, m // 2).
    """
    angles, x = [], rows
    for _ in range(levels):
        angles.append(_complex(x).square().sum(0).angle() / 2)
        x = turned(x, _phases(angles[-1]))
    for _ in range(_ROUNDS):
        inputs = [rows]
        for level in angles:
            inputs.append(turned(inputs[-1], _phases(level)))
        pull = inputs[-1] * inputs[-1].square().sum(0)
        for level in reversed(range(levels)):
            angles[level] = (_complex_pairs(pull).conj() * _complex(inputs[level])).sum(0).angle()
            pull = turned_back(pull, _phases(angles[level]))
    return torch.stack(angles)
