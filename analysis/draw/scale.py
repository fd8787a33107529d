"""The figure of what very many atoms take."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import arms
from analysis.draw.panels import subplots
from analysis.draw.shared import Style, arm_style, draw_line, legend, log_ticks, log_y_ticks, plain_axis
from analysis.frames import column, dicts, groups, only
from analysis.tables.scale import MEASURES

_PANEL = ["model", "layer", "k"]
_MARKERS = "o^sDvP*Xhd"


def scale_figure(table: pd.DataFrame) -> Figure:
    """Draw each measure of `scale_table` against the number of atoms, all axes logarithmic, a row for each cell."""
    cells = groups(table, _PANEL)
    figure, axes = subplots(len(cells), len(MEASURES), (3.3 * len(MEASURES) + 2.2, 3.2 * len(cells)))
    in_legend: dict[str, Style] = {}
    degrees = sorted(table["d"].dropna().unique())
    for line_of_axes, ((model, layer, k), rows) in zip(axes, cells, strict=True):
        for axis, (what, label) in zip(line_of_axes, MEASURES.items(), strict=True):
            points = only(rows, what=what)
            for _, line in groups(points, ["arm", "d"]):
                style = _style(dicts(line)[0], degrees)
                in_legend[style.label] = style
                draw_line(axis, line.sort_values("n_latents"), "n_latents", style)
            log_y_ticks(axis)
            axis.set_ylabel(label, fontsize=9)
            axis.set_xlabel("n: atoms")
            log_ticks(axis, column(rows, "n_latents"))
            plain_axis(axis)
        line_of_axes[0].set_title(f"{model}, after block {layer}, k = {k}", loc="left", fontsize=10)
    legend(figure, [style.handle() for style in in_legend.values()])
    return figure


def _style(row: dict[str, Any], degrees: list[float]) -> Style:
    own = arm_style(row["arm"])
    if row["arm"] == arms.REFERENCE:
        return own._replace(label="dense, of as many atoms:\ncomputed, not trained", marker="")
    marker = _MARKERS[degrees.index(row["d"]) % len(_MARKERS)]
    return own._replace(label=f"{own.label}, d = {row['d']:.0f}", marker=marker)
