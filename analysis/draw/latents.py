"""The figure of how each arm's latents are used, drawn from `analysis.tables.latents`."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import arms
from analysis.draw.panels import hide_unused, subplots
from analysis.draw.shared import legend, panel_title
from analysis.frames import dicts, groups
from analysis.tables.latents import MEASURES, NOVELTY_NULL
from analysis.tables.pairs import CELL, MODEL_LAYER_N

_COLUMNS = 5  # panels side by side


def richest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the panel (model, layer, n, k) with the most arms; of several, the one with the largest k."""
    return max(groups(table, CELL), key=lambda panel: (len(set(panel[1]["arm"])), panel[0][3]))[1]


def summary_figure(panel: pd.DataFrame) -> Figure:
    """Draw a panel per measure, in it a row per arm and a point per d, larger for a larger d.

    Where novelty has a null (the value that two runs that share nothing would have), a short bar marks the null.

    Args:
        panel: rows of `analysis.tables.latents.summary_table` of one (model, layer, n, k).
    """
    measures = [name for name in MEASURES if name in panel and any(panel[name].notna())]
    labels = arms.in_order(panel["arm"])[::-1]
    columns = min(len(measures), _COLUMNS)
    lines = -(-len(measures) // columns)
    figure, axes = subplots(lines, columns, (1.75 * columns + 3, (0.26 * len(labels) + 0.7) * lines + 0.5), sharey=True)
    hide_unused(axes, len(measures))
    degrees = sorted(panel["d"].dropna().unique())
    for axis, measure in zip(axes.flat, measures, strict=False):
        for row in dicts(panel):
            size = _marker_size(degrees.index(row["d"])) if row["d"] in degrees else 6
            _draw_point(axis, row, measure, labels.index(row["arm"]), size)
        axis.set_title(MEASURES[measure], fontsize=9, loc="left")
        axis.grid(color="0.92", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.12)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(labels)), [arms.display(arm) for arm in labels])  # for all, as they share it
    figure.suptitle(_title(dicts(panel)[0]), fontsize=10, x=0.01, ha="left")
    legend(figure, [_handle(rank, d) for rank, d in enumerate(degrees)])
    return figure


def _handle(rank: int, d: float) -> Line2D:
    size = _marker_size(rank)
    return Line2D([], [], color="0.4", marker="o", linestyle="none", markersize=size, label=f"d = {d:.0f}")


def _marker_size(rank: int) -> float:
    """Return the size in points (1/72 inch) of the marker of the d that is `rank`-th of the panel, from 0."""
    return 4 + 1.5 * rank


def _draw_point(axis: Axes, row: dict[str, Any], measure: str, y: int, size: float) -> None:
    look: dict[str, Any] = {"color": arms.colour(row["arm"]), "alpha": 0.8, "marker": "o", "markersize": size}
    axis.errorbar(row[measure], y, xerr=row[f"{measure}_half_interval"], capsize=0, elinewidth=1, **look)
    null = row.get(NOVELTY_NULL, math.nan)
    if measure == "novelty_novel_fraction" and not math.isnan(null):
        axis.plot(null, y, "|", color="0.3", markersize=11)


def _title(row: dict[str, Any]) -> str:
    title = panel_title([row[key] for key in MODEL_LAYER_N], row["k"])
    if "tokens" in row:
        title += f": {row['tokens']:,.0f} held-out tokens"
    if "near_dead_rate" in row:
        title += f"; near-dead: fires at fewer than {row['near_dead_rate']:g} of them"
    return title
