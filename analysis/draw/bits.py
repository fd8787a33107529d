"""The look of values of few bits: what tells their bits and how they were kept apart."""

from __future__ import annotations

from typing import Any

from analysis import arms
from analysis.draw.shared import Style

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


def style_of_bits(row: dict[str, Any]) -> Style:
    """Return the look of an arm's values: a marker for their bits and how they are kept, hollow if never trained so.

    Other bits than the usual ones are their own marker, a number.
    """
    how, bits = row["how_rounded"], row["bits"]
    line, *markers = _LOOK.get(bits, ("-.", *[f"${bits:g}$"] * 3))
    marker = markers[2 if how == "pq" else 1 if "fourier" in how else 0]
    if points := _STARS.get(how):
        marker = (points, 1, 45 * bits / points)  # a star, turned by the bits
    if how.startswith("tcq"):
        marker = "$W$" if "weighted" in how else "$T$"  # letters, as shapes are used up
    hollow = bits != arms.FLOAT_BITS and not how.startswith(("trained", "pq", "tcq"))
    return Style(f"{arms.display(row['base'])}, {row['rounding']}", arms.colour(row["base"]), marker, line, hollow)
