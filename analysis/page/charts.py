"""Charts for the page's script, which draws lines with intervals: a table, its axes, and what a reader can choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis import arms
from analysis.draw.shared import arm_style

_SYMBOLS = {  # matplotlib's marker: Plotly's symbol
    "o": "circle",
    "p": "pentagon",
    "^": "triangle-up",
    "<": "triangle-left",
    ">": "triangle-right",
    "v": "triangle-down",
    "D": "diamond",
    "X": "x",
    "s": "square",
    "P": "cross",
    "h": "hexagon",
    "d": "diamond-tall",
    "*": "star",
    "_": "line-ew-open",
    "H": "hexagon2",
    "8": "octagon",
}
_DASHES = {"-": "solid", "--": "dash", ":": "dot"}


@dataclass(frozen=True)
class Choice:
    """A field of the page that chooses one value of `columns`; only rows with that value are drawn.

    Args:
        columns: the columns whose values together are one choice.
        label: the text beside the field; without one, the names of the columns.
        first: the value chosen at first, where the table has it; None chooses the value with most lines.
        or_none: rows without a value belong to every choice.
        names: names of values for people.
    """

    columns: Sequence[str]
    label: str = ""
    first: Any = None
    or_none: bool = False
    names: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the choice as `static/choices.js` reads it."""
        return {
            "columns": list(self.columns),
            "label": self.label or ", ".join(self.columns),
            "first": self.first,
            "orNone": self.or_none,
            "names": self.names,
        }


PANEL_CHOICES = [Choice(["model", "layer", "n"], "LM, layer, n"), Choice(["k"], "k")]


def chart(
    x: Sequence[dict[str, Any]],
    y: Sequence[dict[str, Any]],
    choices: Sequence[Choice],
    line: Sequence[str] = ("arm",),
    shown: Sequence[str] = (),
    levels: Sequence[str] = (),
    how: str = "",
    **more: Any,
) -> dict[str, Any]:
    """Return a chart as `static/chart.js` reads it.

    Args:
        x: axes to choose from: key, label, log and unit. An axis may have a `table` of its own; it then shows that
            table's column x, and the column `column` of the run table for single runs.
        y: axes to choose from: key, label, and the columns `mean` and `half` (its half interval).
        line: the columns whose values make a line.
        shown: the arms drawn at first; all where none of them is there.
        levels: arms drawn as a level, whatever their x.
        how: a text that says how to read the chart.
        more: `table`, `points`, `band` and `log_y`, where the chart has them.
    """
    return {
        "kind": "chart",
        "x": list(x),
        "y": list(y),
        "choices": [choice.as_dict() for choice in choices],
        "line": list(line),
        "shown": list(shown),
        "levels": list(levels),
        "how": " ".join(how.split()),
        **more,
    }


def x_axis(key: str, label: str, log: bool = False, unit: str = "number") -> dict[str, Any]:
    """Return an x axis over the column `key`."""
    return {"key": key, "label": label, "log": log, "unit": unit}


def y_axis(label: str = "", mean: str = "mean", half: str = "half_interval") -> dict[str, Any]:
    """Return a y axis over the columns `mean` and `half`; without a label the choice of `what` names it."""
    return {"key": mean, "label": label, "mean": mean, "half": half}


def styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return for each arm its name, colour, marker and dash, the same as in every figure, and its rank among them."""
    found: dict[str, dict[str, Any]] = {}
    for rank, label in enumerate(arms.in_order(labels)):
        style = arm_style(label)
        symbol = _SYMBOLS[style.marker]
        hollow = style.hollow and not symbol.endswith("-open")
        look = {"colour": style.colour, "symbol": symbol + "-open" * hollow, "dash": _DASHES[style.line]}
        found[label] = {"name": style.label, **look, "rank": rank}
    return found
