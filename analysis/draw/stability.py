"""The figure of stability, drawn from `analysis.tables.stability`."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import arms
from analysis.draw.panels import panel_grid
from analysis.draw.shared import COLOURS, legend, plain_axis
from analysis.frames import dicts, groups, only, where
from analysis.tables.stability import DIFFERS, DRAWN, MEASURES, drawn

# Which seed differs: colour, marker.
_LOOKS: dict[str, tuple[str, str]] = dict(zip(DIFFERS, zip(COLOURS, "oD^s", strict=False), strict=True))
_NAMES = {
    "all": "all seeds differ",
    "support": "support alone",
    "values": "initial values alone",
    "order": "order alone",
}
_APART = 0.17  # between the points of one arm, in rows
_LINE = 0.36  # height of a row, in inches


def stability_figure(table: pd.DataFrame) -> Figure:
    """Draw a row of panels per model, place, n and k, a column per measure, and in each panel a line of text per arm.

    A point is the mean over pairs of runs. The grey bar on its line is chance, the cross is what random dictionaries
    score read in the same way, and the bracket is the most that the supports allow.
    """
    panels = groups(drawn(table), ["model", "place", "n", "k"])
    longest = max(len(_lines_of(rows)) for _, rows in panels)
    cells = [(place, column) for place in range(len(panels)) for column in range(len(DRAWN))]
    grid = panel_grid(cells, size=(2.5, 1.1 + _LINE * longest))
    kinds: list[str] = []
    for place, (key, rows) in enumerate(panels):
        lines = _lines_of(rows)
        for number, what in enumerate(DRAWN):
            axis, points = grid.axes[place, number], only(rows, what=what)
            for height, (arm, d) in enumerate(lines):
                _draw_line(axis, _of_line(points, arm, d), len(lines) - 1 - height)
            _finish(axis, lines, MEASURES[what], _highest(points) if what.startswith("above") else 1.0)
        model, where_read, n, k = key
        grid.axes[place, 0].set_title(f"{model}, {where_read}, n = {n}, k = {k}", loc="left", fontsize=10)
        kinds += rows["differs"].tolist()
    legend(grid.figure, _handles([kind for kind in DIFFERS if kind in kinds]))
    return grid.figure


def _lines_of(rows: pd.DataFrame) -> list[tuple[str, float]]:
    """Return the (arm, d) of each line of text, in the order of `analysis.arms`; an arm without d has NaN."""
    order = arms.in_order(rows["arm"])
    found = {(row["arm"], -1.0 if math.isnan(row["d"]) else row["d"]) for row in dicts(rows)}
    sorted_lines = sorted(found, key=lambda line: (order.index(line[0]), line[1]))
    return [(arm, math.nan if d < 0 else d) for arm, d in sorted_lines]


def _of_line(points: pd.DataFrame, arm: str, d: float) -> pd.DataFrame:
    found = only(points, arm=arm)
    return where(found, found["d"].isna() if math.isnan(d) else found["d"] == d)


def _draw_line(axis: Axes, points: pd.DataFrame, height: float) -> None:
    """Draw the points of one arm about `height`, one below the other where several kinds of pairs were compared."""
    kinds = [kind for kind in DIFFERS if kind in set(points["differs"])]
    for number, kind in enumerate(kinds):
        (row,) = dicts(only(points, differs=kind))
        y = height + _APART * ((len(kinds) - 1) / 2 - number)
        colour, marker = _LOOKS[kind]
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 5, "capsize": 2, "elinewidth": 1}
        axis.plot(row["chance"], y, marker="|", color="0.6", markersize=8, markeredgewidth=2, linestyle="")
        axis.plot(row["floor"], y, marker="x", color="0.35", markersize=5, linestyle="", zorder=2.5)
        axis.plot(row["ceiling"], y, marker="$]$", color="0.35", markersize=7, linestyle="")
        axis.errorbar(row["mean"], y, xerr=row["half_interval"], **look)


def _highest(points: pd.DataFrame) -> float:
    """Return the end of the axis of a share: often few latents are found again."""
    ends = [*(points["mean"] + points["half_interval"].fillna(0)), *points["chance"], *points["floor"].dropna()]
    return min(1.0, max(0.05, 1.1 * max(ends)))


def _finish(axis: Axes, lines: list[tuple[str, float]], x_label: str, highest: float) -> None:
    names = [arms.display(arm) + ("" if math.isnan(d) else f", d={d:g}") for arm, d in lines]
    axis.set_yticks(range(len(lines) - 1, -1, -1), names, fontsize=8)
    axis.set_ylim(-0.6, len(lines) - 0.4)
    axis.set_xlim(-0.04 * highest, 1.04 * highest)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="x", labelsize=9)
    axis.set_xlabel(x_label, fontsize=8)
    plain_axis(axis)


def _handles(kinds: list[str]) -> list[Line2D]:
    def entry(label: str, marker: str, colour: str, **more: Any) -> Line2D:
        return Line2D([], [], linestyle="", label=label, marker=marker, color=colour, **more)

    points = [entry(_NAMES[kind], _LOOKS[kind][1], _LOOKS[kind][0], markersize=6) for kind in kinds]
    return [
        *points,
        entry("chance", "|", "0.6", markersize=9, markeredgewidth=2),
        entry("floor: random dictionary,\nread alike", "x", "0.35", markersize=6),
        entry("highest that supports allow", "$]$", "0.35", markersize=8),
    ]
