"""The figure of bytes, fidelity and meaning side by side, drawn from `analysis.tables.three_axes`."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import arms
from analysis.draw.floor import COLOUR, FLOOR_ID, level_handles, mark_floor, way_of_reading
from analysis.draw.meaning import BYTES, LOWEST, draw_points
from analysis.draw.panels import subplots
from analysis.draw.shared import arm_handles, arm_style, legend, panel_title, plain_axis
from analysis.frames import column, dicts, groups
from analysis.tables.pairs import CELL
from analysis.tables.three_axes import SIDES, one_side

_LABELS = {
    "ce_recovered": "CE recovered",
    "explained_variance": "explained variance",
    "accuracy": "accuracy of the best\n5 latents, mean of all sets",
    "coverage": "features found (share)",
}


def three_axes_figure(table: pd.DataFrame) -> Figure:
    """Draw three panels per (model, layer, n, k) and way of reading.

    The first has fidelity against bytes, the second meaning against bytes, the third meaning against fidelity, where a
    larger mark is a larger file. What lies in grey is no better than a random dictionary read in the same way.

    Args:
        table: from `analysis.tables.three_axes.three_axes_table`.
    """
    rows = sorted(groups(table, [*CELL, "reading"]), key=lambda row: (*row[0][:4], row[0][4] != arms.TOPK, row[0][4]))
    figure, axes = subplots(len(rows), 3, (12.0, 3.0 * len(rows) + 0.3))
    for line, (key, points) in zip(axes, rows, strict=True):
        for axis, side in zip(line, SIDES, strict=False):
            _draw_side(axis, one_side(points, side))
        _draw_both(line[2], points)
        *panel, reading = key
        title = f"{panel_title(panel[:3], panel[3])}\nread {way_of_reading(reading)}"
        line[0].set_title(title, loc="left", fontsize=9)
    legend(figure, [*arm_handles(table["arm"]), *level_handles(column(table, "fidelity_floor"))])
    return figure


def _draw_side(axis: Axes, points: pd.DataFrame) -> None:
    draw_points(axis, points)
    axis.set_xlabel(BYTES, fontsize=9)
    axis.set_ylabel(_label(points), fontsize=9)
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, _lowest(points)), high)
    mark_floor(axis, points)


def _draw_both(axis: Axes, points: pd.DataFrame) -> None:
    for row in dicts(points):
        style, size = arm_style(row["arm"]), _marker_size(row["artifact_bytes"])
        look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "markersize": size, "alpha": 0.9}
        look |= {"markerfacecolor": style.face, "elinewidth": 0.8}
        halves = {"xerr": row["fidelity_half_interval"], "yerr": row["meaning_half_interval"]}
        axis.errorbar(row["fidelity"], row["meaning"], **halves, **look)
    fidelity, meaning = (one_side(points, side) for side in SIDES)
    axis.set_xlabel(f"{_label(fidelity)}; larger mark: larger file", fontsize=9)
    axis.set_ylabel(_label(meaning), fontsize=9)
    low, high = axis.get_xlim()
    axis.set_xlim(max(low, _lowest(fidelity)), high)
    mark_floor(axis, meaning)
    floor = column(fidelity, "floor").dropna()
    if len(floor):
        low, high = axis.get_xlim()
        axis.axvline(float(floor.max()), color=COLOUR, linestyle="--", linewidth=1.2, gid=FLOOR_ID)
        axis.axvspan(low, float(floor.max()), color="0.93", zorder=0, gid=FLOOR_ID)
        axis.set_xlim(low, high)
    plain_axis(axis)


def _label(points: pd.DataFrame) -> str:
    """Return the measure's name; where a panel leaves points out, also from where on it shows them."""
    cut = float(column(points, "mean").min()) < (low := _lowest(points))
    return _LABELS[points["measure"].iloc[0]] + (f"\n(from {low:g} up)" if cut else "")


def _lowest(points: pd.DataFrame) -> float:
    return LOWEST.get(points["measure"].iloc[0], float("-inf"))


def _marker_size(stored: float) -> float:
    """Return a marker's size in points (1/72 inch): half a point more each time that the file doubles."""
    return 3 + 0.5 * max(0.0, math.log2(stored / 1024))
