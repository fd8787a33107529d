"""The figure of sparse against dense dictionaries at equal stored bytes, drawn from `analysis.tables.iso_bytes`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase
from textwrap import fill
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import arms
from analysis.draw.floor import FLOOR_ID, way_of_inference
from analysis.draw.panels import subplots
from analysis.draw.shared import COLOURS, panel_title, plain_axis
from analysis.frames import column, dicts, groups, only
from analysis.tables.iso_bytes import ANY, AT_DENSE_COST, FLOATS, ONE_SHOT, RULES, SHARES, SIDES, VALUES
from sweep.store.human_size import human_size

_COLOURS = {"sparse": COLOURS[0], "dense": COLOURS[2]}
_MARKERS = {"sparse": "o", "dense": "s"}
_TITLES = {
    ONE_SHOT: "both read one-shot",
    AT_DENSE_COST: "sparse one at the dense one's one-shot cost",
    ANY: "read in any way",
}
_PALE = "0.87"
_WIDTH, _PANEL, _LINE = 11.4, 2.7, 0.14  # inches: of the figure, a panel's height, a line of the key
_KEY = 62  # characters of a line of the key
_NAMES = {"sparse": [str(number) for number in range(1, 100)], "dense": [*ascii_lowercase, *ascii_uppercase]}

Key = dict[tuple[str, str], str]  # the mark of each side's dictionary, by the side and its words


class _Entry(NamedTuple):
    """An entry of the key: a dictionary's side, and its mark and words."""

    side: str
    text: str

    @property
    def lines(self) -> int:
        return self.text.count("\n") + 1


def iso_bytes_figure(table: pd.DataFrame, measure: str = "CE recovered") -> Figure:
    """Draw the best sparse and the best dense dictionary against stored bytes, a column of panels for each rule.

    The rows of panels are those of values of 32 bits and of any bits. Each point has a mark, a number for a sparse
    dictionary and a letter for a dense one, which the key below its column explains.

    Args:
        table: from `analysis.tables.iso_bytes.iso_bytes_table`, the rows of one (model, layer, n, k).
        measure: the name of what is compared.
    """
    ((*panel, k), _) = groups(table, ["model", "layer", "n", "k"])[0]
    rows = _kinds_of_values(table)
    keys = [_key(only(table, rule=rule)) for rule in RULES]
    entries = [[_entry(side, name, mark) for (side, name), mark in key.items()] for key in keys]
    lines = max(sum(entry.lines for entry in of_key) for of_key in entries)
    heights = [_PANEL] * len(rows) + [_LINE * lines]
    figure, axes = subplots(len(rows) + 1, len(RULES), (_WIDTH, sum(heights) + 0.4), height_ratios=heights)
    shares = [share for share in SHARES if share in set(table["share"])]
    limits = _limits(table)
    for line, values in zip(axes[:-1], rows, strict=True):
        for axis, rule, key in zip(line, RULES, keys, strict=True):
            points = only(table, values=values, rule=rule)
            _draw(axis, points, shares, key)
            axis.set_ylim(limits)
            if points.empty:
                axis.text(0.5, 0.5, "(no dictionary of both kinds)", transform=axis.transAxes, ha="center", fontsize=8)
            size = "values of 32 bits" if values == FLOATS else "values of any bits"
            axis.set_title(f"{_TITLES[rule]},\n{size}", fontsize=9)
            axis.set_xlabel("stored bytes at most: share of the full dense SAE's", fontsize=9)
        line[0].set_ylabel(measure)
    for axis, of_key in zip(axes[-1], entries, strict=True):
        _write_key(axis, of_key, lines)
    figure.suptitle(panel_title(panel, k), x=0.01, ha="left", fontsize=11)
    figure.legend(handles=_handles(), loc="outside upper right", ncols=3, fontsize=8.5, frameon=False)
    return figure


def _key(points: pd.DataFrame) -> Key:
    """Return the marks of a column's dictionaries, from the smallest on: numbers for sparse, letters for dense ones."""
    marks: Key = {}
    for side in SIDES:
        found = points.dropna(subset=[f"{side}_mean"]).sort_values(f"{side}_bytes")
        names = dict.fromkeys(_name(row, side) for row in dicts(found))
        marks |= {(side, name): mark for name, mark in zip(names, _NAMES[side], strict=False)}
    return marks


def _entry(side: str, name: str, mark: str) -> _Entry:
    return _Entry(side, fill(f"{mark}: {name}", _KEY, subsequent_indent="    "))


def _write_key(axis: Axes, entries: Sequence[_Entry], lines: int) -> None:
    """Write the key below a column of panels.

    Args:
        lines: those of the longest key, for which there is room.
    """
    axis.set_axis_off()
    axis.set_ylim(lines, 0)
    place = 0
    for entry in entries:
        text = axis.text(0, place, entry.text, fontsize=7, va="top", color=_COLOURS[entry.side], linespacing=1.05)
        text.set_in_layout(False)  # it may be a little wider than its column of panels
        place += entry.lines


def _kinds_of_values(table: pd.DataFrame) -> list[str]:
    """Return the kinds of values that have a row of panels: any bits have none where they say the same as 32 bits."""
    kinds = [values for values in VALUES if len(only(table, values=values))]
    said = [only(table, values=values).drop(columns="values").reset_index(drop=True) for values in kinds]
    return kinds[:1] if len(said) == 2 and said[0].equals(said[1]) else kinds


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of the y axis: a little beyond all points, for their marks, the floor left aside."""
    means = [value for side in SIDES for value in column(table, f"{side}_mean").dropna().tolist()]
    room = 0.25 * max(max(means) - min(means), 0.04)
    return max(-room / 2, min(means) - room), max(means) + room


def _draw(axis: Axes, points: pd.DataFrame, shares: list[int], key: Key) -> None:
    place = {share: i for i, share in enumerate(shares)}
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        found = points.dropna(subset=[f"{side}_mean"])
        xs = [place[share] for share in found["share"]]
        look: dict[str, Any] = {"color": _COLOURS[side], "marker": _MARKERS[side], "capsize": 3, "linewidth": 1.4}
        axis.errorbar(xs, found[f"{side}_mean"], yerr=found[f"{side}_half_interval"], **look)
        for x, row in zip(xs, dicts(found), strict=True):
            below = row[f"{side}_mean"] < row.get(f"{other}_mean", math.nan)
            half = row[f"{side}_half_interval"]
            beyond = 0.0 if math.isnan(half) else half  # the end of its error bar
            offset, where = (-6, "top") if below else (6, "bottom")
            text: dict[str, Any] = {"fontsize": 8, "ha": "center", "va": where, "color": _COLOURS[side]}
            mark, at = key[side, _name(row, side)], (x, row[f"{side}_mean"] + (-beyond if below else beyond))
            axis.annotate(mark, at, (0, offset), textcoords="offset points", **text)
    floor = points.dropna(subset=["floor"])
    if len(floor):
        edges = [place[share] for share in floor["share"]]
        axis.fill_between(edges, 0, floor["floor"], color=_PALE, linewidth=0, zorder=0, gid=FLOOR_ID)
    levels = {share: human_size(level) for share, level in zip(points["share"], points["level"], strict=True)}
    names = [f"1/{share}\n{levels.get(share, '')}".replace(" ", "\n") for share in shares]
    axis.set_xticks(range(len(shares)), names, fontsize=7)
    axis.set_xlim(-0.5, len(shares) - 0.5)
    plain_axis(axis)


def _name(row: dict[str, Any], side: str) -> str:
    """Return the dictionary of a point in words: its arm and bits, its size, and how it is read."""
    arm = arms.parse(row[side])
    sizes = [f"d={row[f'{side}_d']:.0f}"] if side != "dense" else []
    sizes += [f"n'={row[f'{side}_n_latents']:.0f}"] if side == "dense" or arm.prefix else []
    return ", ".join([arms.display(row[side]), *sizes, way_of_inference(row[side], row[f"{side}_inference"])])


def _handles() -> list[Any]:
    sides = [
        Line2D([], [], color=_COLOURS[side], marker=_MARKERS[side], label=f"best {side} dictionary") for side in SIDES
    ]
    return [*sides, Patch(color=_PALE, label="floor: random dictionary, same rule")]
