"""The look of values of few bits: what tells their bits and how they were kept apart."""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd

from analysis import arms
from analysis.draw.shared import WHAT, Style, arm_style
from analysis.frames import dicts
from analysis.tables.bits import ROUNDED, best_of_bits

_LOOK = {  # bits of a value: line, marker, marker in a Fourier basis, marker of pieces out of a codebook
    32: ("-", "o", "o", "o"),
    8: ("--", "s", "D", "s"),
    4: (":", "^", "p", "P"),
    2: ("-.", "v", "d", "X"),
    1.58: ("--", "<", "h", "<"),
    1: (":", ">", "8", "*"),
}
# Of pieces out of a codebook that are not the nearest of the atoms' own: how many points a star has.
_STARS = {"pq_fourier": 4, "pq_weighted": 3, "pq_weighted_fourier": 6}
_INK = "0.25"


def best_marked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table of bits that are `best_of_bits`; their column `mark` says which of `marks` they have.

    A line on standard error says how many are left out.
    """
    best = best_of_bits(table)
    if less := len(table) - len(best):
        why = "others of their kind preserve more in no more bytes; --arms draws those asked for"
        print(f"note: bits: {less} of {len(table)} rows are in the CSV only, as {why}", file=sys.stderr)
    return best.assign(mark=[_mark(row["bits"], _is_hollow(row)) for row in dicts(best)])


def marks(table: pd.DataFrame) -> dict[str, Style]:
    """Return the markers of points by `mark`, most bits first: one for their bits, hollow if rounded after training."""
    made = {}
    for bits in sorted(set(table["bits"]), reverse=True):
        for after in (False, True):
            label = _mark(bits, after)
            made[label] = Style(label, _INK, _look(bits)[1], "", after)
    return made


def _mark(bits: float, after: bool) -> str:
    return arms.number_of_bits(bits) + (", rounded after training" if after else "")


def style_of_kind(row: dict[str, Any]) -> Style:
    """Return the look of a kind of arm's line. What rounding changed of latents is no line: it depends on much else."""
    style = arm_style(row["kind"])
    return style._replace(line="") if row[WHAT] == ROUNDED else style


def style_of_bits(row: dict[str, Any]) -> Style:
    """Return the look of an arm's values: a marker for their bits and how they are kept, hollow if never trained so.

    Other bits than the usual ones are their own marker, a number.
    """
    how, bits = row["how_rounded"], row["bits"]
    line, *markers = _look(bits)
    marker = markers[2 if how == "pq" else 1 if "fourier" in how else 0]
    if points := _STARS.get(how):
        marker = (points, 1, 45 * bits / points)  # a star, turned by the bits
    if how.startswith("tcq"):
        marker = "$W$" if "weighted" in how else "$T$"  # letters, as shapes are used up
    label = f"{arms.display(row['base'])}, {row['rounding']}"
    return Style(label, arms.colour(row["base"]), marker, line, _is_hollow(row))


def _look(bits: float) -> tuple[str, str, str, str]:
    number = f"${bits:g}$"
    return _LOOK.get(bits, ("-.", number, number, number))


def _is_hollow(row: dict[str, Any]) -> bool:
    return row["bits"] != arms.FLOAT_BITS and not row["how_rounded"].startswith(("trained", "pq", "tcq"))
