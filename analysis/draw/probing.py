"""The figure of sparse probing, drawn from `analysis.tables.probing`."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.draw.floor import level_handles, mark_floor, way_of_reading
from analysis.draw.meaning import BYTES, draw_points
from analysis.draw.panels import panel_grid
from analysis.draw.shared import arm_handles, legend, panel_title
from analysis.frames import column, groups
from analysis.tables.probing import mean_of_sets


def probing_figure(table: pd.DataFrame) -> Figure:
    """Draw the mean accuracy over all sets against stored bytes.

    There is a row of panels per (model, layer, n, k), family and way of reading, and a column per number of latents.
    Lines show what the activation's own coordinates tell, as many of them and all, and the floor of random
    dictionaries.
    """
    panels = groups(mean_of_sets(table), ["model", "layer", "n", "k", "family", "reading", "best"])
    rows = list(dict.fromkeys(key[:-1] for key, _ in panels))
    grid = panel_grid([(rows.index(key[:-1]), key[-1]) for key, _ in panels], size=(3.2, 2.8))
    for key, points in panels:
        place = rows.index(key[:-1]), key[-1]
        axis = grid.axes[place]
        draw_points(axis, points)
        axis.axhline(fmean(column(points, "raw")), color="0.5", linestyle=":", linewidth=1.2)
        axis.axhline(fmean(column(points, "raw_all")), color="0.5", linestyle="-", linewidth=0.8)
        model, layer, n, k, family, reading, best = key
        read = way_of_reading(reading)
        axis.set_title(
            f"{panel_title((model, layer, n), k)}\n{family}: best {best}, read {read}", loc="left", fontsize=8
        )
        axis.set_xlabel(BYTES, fontsize=9)
        if place in grid.leading:
            axis.set_ylabel("accuracy, mean of all sets", fontsize=9)
    for key, points in panels:
        mark_floor(grid.axes[rows.index(key[:-1]), key[-1]], points)
    lines: tuple[tuple[str, Any], ...] = (("as many coordinates", ":"), ("all coordinates", "-"))
    others = [Line2D([], [], color="0.4", linestyle=line, label=label) for label, line in lines]
    legend(grid.figure, [*arm_handles(table["arm"]), *level_handles(column(table, "floor")), *others])
    return grid.figure
