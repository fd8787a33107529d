"""The sizes, bits and readings of smaller SAEs that a number of bytes leaves."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

from sae_core.arms import Compressed, FewBits, Imported
from sae_core.arms.compressed import OWN
from sae_core.bases import NEURONS
from sae_core.sizes import CellError
from sae_core.storage import planned_bytes

BITS = (4, 3, 2, 1.58, 8, 6, 5, 16)  # the most promising first
_DENSE_ONLY = (6, 5, 16)  # bits that are looked at first where they leave atoms dense, and only there
OWN_BITS = (16, 8, 6, 5, 4, 3, 2, 1.58, 1)  # of atoms' values, and of an own encoder's weights
READINGS = ("topk", "mp_refit")
SUPPORTS = ("largest", "drawn")  # which values of an atom are kept
# Readings with the supports that are looked at first. Read by a pursuit, drawn rows preserve more where they are few.
_WAYS = ((READINGS[0], SUPPORTS[0]), (READINGS[1], SUPPORTS[0]), (READINGS[1], SUPPORTS[1]))
RATES = ("3e-5", "3e-4")  # learning rates: the first keeps latents, the second makes up for more that is lost
_SHARES = (1, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 3 / 32, 1 / 16, 3 / 64, 1 / 32)  # of d_in, values of an atom
_LEAST = 4  # values of an atom
_MOST_LEFT_OUT = 0.1  # the largest share of the latents that is left out so that the others keep more bits
_REFLECTIONS = 64


class Cells(NamedTuple):
    """The values that a search draws from, and the cells that it begins with."""

    latents: tuple[int, ...]
    degrees: tuple[int, ...]
    bases: tuple[str, ...]
    readings: tuple[str, ...]
    supports: tuple[str, ...]
    first: tuple[str, ...]  # what it looks at first: for each number of bits and reading what keeps the most values

    def of_dense_atoms(self) -> Cells:
        """Return those alone that leave every atom dense, as an own encoder wants it."""
        return self._replace(degrees=self.degrees[:1], bases=(NEURONS,), supports=SUPPORTS[:1])


class _Cell(NamedTuple):
    latents: int
    degree: int
    bits: float
    reading: str
    support: str = SUPPORTS[0]
    encoder_bits: float | None = None  # of an own encoder's weights

    @property
    def words(self) -> str:
        rate = RATES[self.reading == READINGS[1] or (self.encoder_bits or 4) < 3]
        sizes = f"n={self.latents} d={self.degree} sae.bits={self.bits}"
        if self.encoder_bits is not None:
            sizes += f" sae.encoder_bits={self.encoder_bits}"
        where = f"sae.of.basis={NEURONS} sae.of.support={self.support}"
        return f"{sizes} sae.of.encoder={self.reading} {where} train.lr={float(rate)}"


def fitting(of: Imported, n_latents: int, k: int, budget: int) -> Cells:
    """Return the cells of at most `budget` bytes.

    Args:
        n_latents: the latents that are of use. Up to a tenth of them is left out where that lets the others fit.

    Raises:
        ValueError: no SAE of so many latents is that small.
    """
    d_in = of.header.d_in
    own = _with_own_encoder(of, n_latents, k, budget)
    degrees = sorted({max(min(_LEAST, d_in), round(share * d_in)) for share in _SHARES}, reverse=True)
    best: list[_Cell] = []
    for bits, (reading, support) in product(BITS, _WAYS):
        sizes = [degree for degree in degrees if support == SUPPORTS[0] or degree < d_in]
        options = [_largest(of, _Cell(n_latents, degree, bits, reading, support), k, budget) for degree in sizes]
        fit = [cell for cell in options if cell is not None]
        best += [max(fit, key=lambda cell: cell.latents * cell.degree)] if fit else []
    dense = [cell for cell in best if cell.degree == d_in]  # which leave nothing to be drawn
    best = [cell for cell in best if cell.support == SUPPORTS[0] or not _as_one(cell, dense)]
    best = _undominated([cell for cell in best if cell.degree == d_in or cell.bits not in _DENSE_ONLY])
    if not best + own:
        smallest = min(_bytes(of, _Cell(n_latents, degrees[-1], bits, *way), k) for bits, way in product(BITS, _WAYS))
        raise ValueError(
            f"bytes={budget:,} is too little for {n_latents} latents: the smallest SAE that is tried takes {smallest:,}"
        )
    bases = (NEURONS, f"reflections{_REFLECTIONS}") if d_in >= 2 * _REFLECTIONS else (NEURONS,)
    best = own + best
    latents = sorted({n_latents, *(cell.latents for cell in best)}, reverse=True)
    largest = max(cell.degree for cell in best)
    kept = tuple(degree for degree in degrees if degree <= largest)
    readings = (OWN, *READINGS) if own else READINGS
    return Cells(tuple(latents), kept, bases, readings, SUPPORTS, tuple(cell.words for cell in best))


def _with_own_encoder(of: Imported, n_latents: int, k: int, budget: int) -> list[_Cell]:
    """Return the cells that keep the SAE's own encoder, at no fewer bits than atoms have, as it decides about latents.

    Those of the most bits come first. There are none where the SAE has no such encoder.
    """
    pairs = [(bits, own) for bits, own in product(OWN_BITS, OWN_BITS) if own >= bits and (own <= 8 or bits >= 8)]
    cells = (_Cell(n_latents, of.header.d_in, bits, OWN, SUPPORTS[0], own) for bits, own in pairs)
    best = _undominated([cell for each in cells if (cell := _largest(of, each, k, budget)) is not None])
    return sorted(best, key=lambda cell: (cell.bits + (cell.encoder_bits or 0), cell.encoder_bits), reverse=True)


def _undominated(cells: list[_Cell]) -> list[_Cell]:
    """Return the cells than which no other one of the same reading and support keeps at least as much of everything."""
    return [cell for cell in cells if not any(_is_better(other, cell) for other in cells)]


def _is_better(one: _Cell, other: _Cell) -> bool:
    """Tell whether a cell keeps no less than another one of its reading in any respect, and more in one."""
    alike = (one.reading, one.support) == (other.reading, other.support)
    pairs = [(cell.latents, cell.degree, cell.bits, cell.encoder_bits or 0) for cell in (one, other)]
    return alike and pairs[0] != pairs[1] and all(a >= b for a, b in zip(*pairs, strict=True))


def _as_one(cell: _Cell, others: list[_Cell]) -> bool:
    """Tell whether another cell is of the same bits and reading."""
    return any((cell.bits, cell.reading) == (other.bits, other.reading) for other in others)


def _largest(of: Imported, cell: _Cell, k: int, budget: int) -> _Cell | None:
    """Return the cell with as many of its latents as fit; None where too many would be left out."""
    least, most = math.ceil((1 - _MOST_LEFT_OUT) * cell.latents), cell.latents
    if _bytes(of, cell._replace(latents=least), k) > budget:
        return None
    while least < most:
        middle = (least + most + 1) // 2
        fits = _bytes(of, cell._replace(latents=middle), k) <= budget
        least, most = (middle, most) if fits else (least, middle - 1)
    return cell._replace(latents=least)


def _bytes(of: Imported, cell: _Cell, k: int) -> float:
    """Return the bytes of a smaller SAE's file; infinitely many where there is none of these sizes."""
    try:
        smaller = Compressed(of, cell.latents, cell.degree, k, cell.reading, support=cell.support)
        arm = FewBits(smaller, cell.bits, rounded_from=0.0, encoder_bits=cell.encoder_bits)
        return planned_bytes(arm.layout(of.header.d_in))
    except CellError:
        return float("inf")
