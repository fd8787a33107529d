"""The figure of SAEs that were made smaller."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.arms import COMPRESSED, IMPORTED, TOPK
from analysis.draw.labels import label_points
from analysis.draw.panels import subplots
from analysis.draw.shared import legend, log_ticks, plain_axis
from analysis.frames import column, dicts, groups, only

_COLOURS = "viridis"
_ORIGINAL = {"marker": "*", "s": 180, "color": "#000000", "zorder": 3}


def compressed_figure(table: pd.DataFrame) -> Figure:
    """Draw CE recovered against bytes, a panel for each layer; the colour says how many latents stay what they were."""
    cells = groups(table, ["model", "layer"])
    figure, axes = subplots(1, len(cells), (5.6 * len(cells) + 2.2, 4.2))
    shown: Any = None
    for axis, ((model, layer), rows) in zip(axes[0], cells, strict=True):
        for row in dicts(rows):
            shown = _point(axis, row) or shown
        axis.set_xscale("log")
        log_ticks(axis, column(rows, "artifact_bytes"))
        axis.set_xlabel("stored bytes (size of the file)")
        axis.set_ylabel("cross-entropy recovered")
        axis.set_title(f"{model}, after block {layer}", loc="left", fontsize=10)
        plain_axis(axis)
    figure.colorbar(shown, ax=list(axes[0]), label="share of latents that stay what they were")
    one_shot = Line2D([], [], marker="o", linestyle="", color="#555555", label="smaller, read one-shot")
    pursuit = Line2D([], [], marker="D", linestyle="", color="#555555", label="smaller, read by a pursuit")
    original = Line2D([], [], marker="*", linestyle="", markersize=11, color="#000000", label="what it was made of")
    legend(figure, [original, one_shot, pursuit])
    figure.draw_without_rendering()  # gives the panels the size that labels must fit into
    for axis, (_, rows) in zip(axes[0], cells, strict=True):
        _label(axis, rows)
    return figure


def _point(axis: Axes, row: dict[str, Any]) -> Any:
    """Draw a run; return what the colours belong to, None for an original."""
    x, y = row["artifact_bytes"], row["ce_recovered"]
    if row["base_arm"] == IMPORTED:
        axis.scatter(x, y, **_ORIGINAL)
        return None
    marker = "o" if row["reading"] == TOPK else "D"
    return axis.scatter(x, y, c=[row["survived"]], cmap=_COLOURS, norm=Normalize(0, 1), marker=marker, s=45)


def _label(axis: Axes, rows: pd.DataFrame) -> None:
    """Say at as many points as have room how large the SAE is."""
    shown = only(rows, base_arm=COMPRESSED).sort_values("artifact_bytes")
    points = [
        (row["artifact_bytes"], row["ce_recovered"], f"d={row['degree']:.0f}, {row['bits']:g} bits")
        for row in dicts(shown)
    ]
    at = rows[["artifact_bytes", "ce_recovered"]].to_numpy()
    label_points(axis, points, at, np.empty((0, 2)), (1, -1))
