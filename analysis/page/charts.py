"""What the page's script needs to draw lines with intervals: a table, its axes, and what can be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis import arms
from analysis.draw.shared import arm_style

_SYMBOLS = {
    "o": "circle", "p": "pentagon", "^": "triangle-up", "<": "triangle-left", "v": "triangle-down", "D": "diamond",
    "X": "x", "s": "square", "P": "cross", "h": "hexagon", "d": "diamond-tall", "*": "star", "_": "line-ew-open",
    "H": "hexagon2",
}  # fmt: skip
_DASHES = {"-": "solid", "--": "dash", ":": "dot"}


@dataclass(frozen=True)
class Choice:
    """One value of `columns` at a time is drawn.

    Args:
        columns: together one choice.
        label: of the field that chooses; empty for the page's own.
        first: the value chosen at first, where there is one such; none for that with most lines.
        or_none: rows without a value belong to each.
        names: of values, for people.
    """

    columns: Sequence[str]
    label: str = ""
    first: Any = None
    or_none: bool = False
    names: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns), "label": self.label or ", ".join(self.columns), "first": self.first,
            "orNone": self.or_none, "names": self.names,
        }  # fmt: skip


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
    """A chart for the page's script.

    Args:
        x: axes to choose from: key, label, log, unit; with a `table` of its own the axis is that one's column x, and
            `column` of the run table.
        y: as x: key, label, and the columns `mean` and `half` (interval).
        line: the columns whose values make a line.
        shown: the arms drawn at first; all where none of them is there.
        levels: arms drawn as a level, whatever their x.
        how: to read it.
        more: `table`, `points`, `band`, `zero`.
    """
    return {
        "kind": "chart", "x": list(x), "y": list(y), "choices": [choice.as_dict() for choice in choices],
        "line": list(line), "shown": list(shown), "levels": list(levels), "how": " ".join(how.split()), **more,
    }  # fmt: skip


def axis(key: str, label: str, log: bool = False, unit: str = "number") -> dict[str, Any]:
    """An x axis over the column `key`."""
    return {"key": key, "label": label, "log": log, "unit": unit}


def y_measure(label: str = "", mean: str = "mean", half: str = "half_interval") -> dict[str, Any]:
    """A y axis; without a label it is named by the choice of `what`."""
    return {"key": mean, "label": label, "mean": mean, "half": half}


def styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By arm: its name, colour, marker and dash, the same as in every figure; `rank`, its place among them."""
    found: dict[str, dict[str, Any]] = {}
    for rank, label in enumerate(arms.in_order(labels)):
        style = arm_style(label)
        symbol = _SYMBOLS[style.marker]
        hollow = style.hollow and not symbol.endswith("-open")
        found[label] = {
            "name": style.label, "colour": style.colour, "symbol": symbol + "-open" * hollow,
            "dash": _DASHES[style.line], "rank": rank,
        }  # fmt: skip
    return found
