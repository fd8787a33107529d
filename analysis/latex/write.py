"""Tables in LaTeX, for booktabs: text escaped, intervals as $a \\pm b$."""

from __future__ import annotations

import math

import pandas as pd

MISSING = "--"
LONG = 45  # rows; more go over pages (longtable)
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


class Math(str):
    """A cell that is LaTeX already."""


def escape(text: object) -> str:
    """`text` as LaTeX shows it literally."""
    return "".join(_SPECIAL.get(letter, letter) for letter in str(text))


def number(value: float, digits: int = 3, signed: bool = False) -> Math:
    """A value with so many decimals; MISSING for NaN."""
    if value is None or math.isnan(value):
        return Math(MISSING)
    return Math(f"${value:{'+' if signed else ''}.{digits}f}$")


def pm(mean: float, half: float, digits: int = 3, signed: bool = False) -> Math:
    """mean \\pm half width of its 95 % interval; the mean alone where there is no interval (one seed)."""
    if mean is None or math.isnan(mean) or half is None or math.isnan(half):
        return number(mean, digits, signed)
    return Math(f"${mean:{'+' if signed else ''}.{digits}f} \\pm {half:.{digits}f}$")


def whole(value: float) -> Math:
    """An integer with thin spaces between thousands; MISSING for NaN."""
    if value is None or math.isnan(value):
        return Math(MISSING)
    return Math(f"${value:,.0f}$".replace(",", r"\,")) if math.isfinite(value) else Math(r"$\infty$")


def latex_table(table: pd.DataFrame, note: str) -> str:
    """`table` (its columns the head, its cells text or Math) between booktabs' rules; a value equal to the one above
    it in the leading text columns is left blank. `note` goes below, and into a comment."""
    note = note.strip()
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    leading = _leading_text(table)
    body = [" & ".join(row) + r" \\" for row in _without_repeats(rows, leading)]
    head = " & ".join(escape(name) for name in table.columns) + r" \\"
    columns = "".join("r" if _has_math(table, name) else "l" for name in table.columns)
    kind = "longtable" if len(body) > LONG else "tabular"
    return "\n".join([
        rf"% needs \usepackage{{booktabs{',longtable' if kind == 'longtable' else ''}}}",
        f"% {note}",
        rf"\begin{{{kind}}}{{{columns}}}",
        r"\toprule", head, r"\midrule",
        *([r"\endhead"] if kind == "longtable" else []),
        *body,
        r"\bottomrule",
        rf"\end{{{kind}}}",
        rf"\par\smallskip{{\footnotesize {escape(note)}}}",
        "",
    ])  # fmt: skip


def _cell(value: object) -> str:
    return str(value) if isinstance(value, Math) else escape(value)


def _leading_text(table: pd.DataFrame) -> int:
    """How many columns from the left hold plain text only."""
    return next((i for i, name in enumerate(table.columns) if _has_math(table, name)), len(table.columns))


def _has_math(table: pd.DataFrame, name: str) -> bool:
    return any(isinstance(value, Math) for value in table[name])


def _without_repeats(rows: list[list[str]], leading: int) -> list[list[str]]:
    shown: list[list[str]] = []
    above: list[str] = []
    for row in rows:
        same = 0
        while above and same < max(0, leading - 1) and row[same] == above[same]:
            same += 1
        shown.append([""] * same + row[same:])
        above = row
    return shown
