"""The figure of what latents mean, drawn from `analysis.tables.meaning`."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.draw.floor import COLOUR, level_handles, mark_floor, way_of_reading
from analysis.draw.panels import panel_grid
from analysis.draw.shared import arm_handles, arm_style, legend, log_ticks, plain_axis
from analysis.frames import column, dicts, groups, only
from analysis.tables.floor import LOWER_IS_BETTER
from analysis.tables.meaning import MEASURES, drawn

BYTES = "bytes of the saved SAE"
CHANCE_ID = "chance"  # the id of the marks that show what chance gives
LOWEST = {"explained_variance": -0.25}  # dictionaries trained by a pursuit and read one-shot go far below


def meaning_figure(table: pd.DataFrame) -> Figure:
    """Draw each measure against stored bytes: a row of panels per measure, a column per features and way of reading.

    The dashed line is the floor, what random dictionaries score read in the same way. What lies in the shaded part is
    no better. Small grey bars are what chance gives at the arms' own firing rates.
    """
    rows = drawn(table)
    measures = [what for what in MEASURES if what in set(rows["what"])]
    order = {"topk": 0}
    columns = sorted(
        {(row["features"], row["reading"]) for row in dicts(rows)}, key=lambda c: (c[0], order.get(c[1], 1), c[1])
    )
    place = {column: number for number, column in enumerate(columns)}
    known = set(zip(rows["what"], rows["features"], rows["reading"], strict=True))
    cells = [(what, place[c]) for what in measures for c in columns if (what, *c) in known]
    lowest = {column: what for what, column in cells}  # the last panel of each column
    grid = panel_grid(cells, size=(2.9, 2.3))
    for what in measures:
        here = [c for c in columns if (what, place[c]) in grid.axes]
        for c in here:
            axis = grid.axes[what, place[c]]
            points = only(rows, what=what, features=c[0], reading=c[1])
            axis.plot(points["artifact_bytes"], points["chance"], "_", color=COLOUR, markersize=7, gid=CHANCE_ID)
            draw_points(axis, points)
            if what == measures[0]:
                axis.set_title(f"{c[0]},\nread {way_of_reading(c[1])}", loc="left", fontsize=9)
            if what == lowest[place[c]]:
                axis.set_xlabel(BYTES, fontsize=9)
            if (what, place[c]) in grid.leading:
                cut = f"\n(from {LOWEST[what]:g} up)" if what in LOWEST else ""
                axis.set_ylabel(MEASURES[what] + cut, fontsize=9)
        # Panels of a row share their axis, so its limits are known only now.
        first = grid.axes[what, place[here[0]]]
        low, high = first.get_ylim()
        first.set_ylim(max(low, LOWEST.get(what, -0.02)), min(high, 1.02))
        for c in here:
            points = only(rows, what=what, features=c[0], reading=c[1])
            mark_floor(grid.axes[what, place[c]], points, what in LOWER_IS_BETTER)
    chance = Line2D([], [], color=COLOUR, linestyle="none", marker="_", label="by chance, at the\nsame firing rates")
    legend(grid.figure, [*arm_handles(rows["arm"]), *level_handles(column(rows, "floor")), chance])
    return grid.figure


def draw_points(axis: Axes, points: pd.DataFrame) -> None:
    """Draw a mean with its interval for each arm against stored bytes."""
    for (arm,), line in groups(points, ["arm"]):
        style = arm_style(arm)
        look = {"color": style.colour, "marker": style.marker, "markersize": 5, "markerfacecolor": style.face}
        line = line.sort_values("artifact_bytes")
        axis.errorbar(
            line["artifact_bytes"],
            line["mean"],
            yerr=line["half_interval"],
            linewidth=1,
            capsize=2,
            elinewidth=1,
            **look,
        )
    if len(points):
        log_ticks(axis, column(points, "artifact_bytes"))
    plain_axis(axis)
