"""Tables in LaTeX for booktabs, with text escaped and intervals as $a \\pm b$."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

MISSING = "--"
LONG = 45  # rows; a table with more of them goes over pages (longtable)
_SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


@dataclass(frozen=True)
class Math:
    """A cell that is LaTeX already. It is no `str`, because pandas turns all of these into strings of its own kind."""

    latex: str

    def __str__(self) -> str:
        return self.latex


def escape(text: object) -> str:
    """Return `text` so that LaTeX shows it literally."""
    return "".join(_SPECIAL.get(letter, letter) for letter in str(text))


def number(value: float, digits: int = 3, signed: bool = False) -> Math:
    """Return a value with so many decimals, or MISSING for NaN."""
    if value is None or math.isnan(value):
        return Math(MISSING)
    return Math(f"${value:{'+' if signed else ''}.{digits}f}$")


def pm(mean: float, half: float, digits: int = 3, signed: bool = False) -> Math:
    """Return mean \\pm half width of its 95 % interval; the mean alone where there is no interval (one seed)."""
    if mean is None or math.isnan(mean) or half is None or math.isnan(half):
        return number(mean, digits, signed)
    return Math(f"${mean:{'+' if signed else ''}.{digits}f} \\pm {half:.{digits}f}$")


def whole(value: float) -> Math:
    """Return an integer with thin spaces between thousands, or MISSING for NaN."""
    if value is None or math.isnan(value):
        return Math(MISSING)
    return Math(f"${value:,.0f}$".replace(",", r"\,")) if math.isfinite(value) else Math(r"$\infty$")


def latex_table(table: pd.DataFrame, note: str) -> str:
    """Return `table` in LaTeX between booktabs' rules, with `note` below it and in a comment.

    In the leading text columns a value equal to the one above it is left blank.

    Args:
        table: its column names become the head, its cells are text or Math.
    """
    note = note.strip()
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    leading = _leading_text(table)
    body = [" & ".join(row) + r" \\" for row in _without_repeats(rows, leading)]
    head = " & ".join(escape(name) for name in table.columns) + r" \\"
    columns = "".join("r" if _has_math(table, name) else "l" for name in table.columns)
    is_long = len(body) > LONG
    kind = "longtable" if is_long else "tabular"
    lines = [
        rf"% needs \usepackage{{booktabs{',longtable' if is_long else ''}}}",
        f"% {note}",
        rf"\begin{{{kind}}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *([r"\endhead"] if is_long else []),
        *body,
        r"\bottomrule",
        rf"\end{{{kind}}}",
        rf"\par\smallskip{{\footnotesize {escape(note)}}}",
    ]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return str(value) if isinstance(value, Math) else escape(value)


def _leading_text(table: pd.DataFrame) -> int:
    """Return how many columns from the left hold plain text only."""
    return next((i for i, name in enumerate(table.columns) if _has_math(table, name)), len(table.columns))


def _has_math(table: pd.DataFrame, name: str) -> bool:
    return any(isinstance(value, Math) for value in table[name])


def _without_repeats(rows: list[list[str]], leading: int) -> list[list[str]]:
    """Return the rows with repeated values blank in all but the last of the `leading` columns."""
    shown: list[list[str]] = []
    above: list[str] = []
    for row in rows:
        same = 0
        while above and same < max(0, leading - 1) and row[same] == above[same]:
            same += 1
        shown.append([""] * same + row[same:])
        above = row
    return shown
