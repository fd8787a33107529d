"""The figure of `analysis.frontier`."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.arms import in_order
from analysis.frames import among, column, groups, only
from analysis.frontier import REFERENCE_ARMS, X_AXES, Y_AXES
from analysis.pairs import PANEL
from analysis.plots import arm_style, draw_line, legend, log_ticks, panel_grid, panel_title, plain_axis
from analysis.published import published

# The layer of each LM in the paper's first table.
_PAPER_LAYERS = {"pythia-70m-deduped": 3, "pythia-160m-deduped": 8, "qwen2.5-3b": 12, "llama-3.2-1b": 12}


def frontier_figure(table: pd.DataFrame, x: str, y: str, with_published: bool = False) -> Figure:
    """A row of panels per (model, layer, n), one per k: `y` against storage, a line per arm, full dense arms as levels.

    Args:
        table: from `analysis.frontier.frontier_table` with the same x and y.
        with_published: draw the paper's points (x = compression, y = ce_recovered only): hollow in the arm's colour
            where a panel is one of the paper's, else the expanders of each of its LMs at k = 64, pale.
    """
    rows = groups(table, PANEL)
    figure, axes = panel_grid(len(rows), sorted(table["k"].unique()), size=(5.2, 4.2))
    for row, (key, of_row) in zip(axes, rows, strict=True):
        for k, axis in row.items():
            panel = only(of_row, k=k)
            if panel.empty:
                axis.set_visible(False)
                continue
            _draw_arms(axis, panel)
            if with_published:
                _draw_published(axis, (*key, k), set(panel["arm"]))
            axis.set_title(panel_title(key, k), loc="left", fontsize=10)
            axis.set_xlabel(X_AXES[x][1], fontsize=9)
            if axis is next(iter(row.values())):
                axis.set_ylabel(Y_AXES[y], fontsize=9)
            log_ticks(axis, pd.concat([column(panel, "x"), column(published(), "compression")] if with_published
                                      else [column(panel, "x")]))  # fmt: skip
            plain_axis(axis)
    handles = [arm_style(arm)._replace(marker="" if arm in REFERENCE_ARMS else arm_style(arm).marker).handle()
               for arm in in_order(table["arm"])]  # fmt: skip
    if with_published:
        handles.append(
            Line2D([], [], color="0.5", marker=".", linestyle=":", label="published (other LMs, k=64: grey)")
        )
    legend(figure, handles)
    return figure


def _draw_arms(axis: Axes, panel: pd.DataFrame) -> None:
    for (arm,), line in groups(panel, ["arm"]):
        style = arm_style(arm)
        if arm not in REFERENCE_ARMS:
            draw_line(axis, line.sort_values("x"), "x", style)
            continue
        level, half = float(line["mean"].iloc[0]), float(line["half_interval"].iloc[0])
        axis.axhline(level, color=style.colour, linestyle=style.line, linewidth=1.2)
        axis.axhspan(level - half, level + half, color=style.colour, alpha=0.12, linewidth=0) if half > 0 else None


def _draw_published(axis: Axes, key: tuple[object, ...], here: set[str]) -> None:
    points = only(published(), inference="encoder")
    same = only(points, **dict(zip([*PANEL, "k"], key, strict=True)))
    if len(same):
        for (arm,), line in groups(among(same, "arm", list(here)), ["arm"]):
            line = line.sort_values("compression")
            axis.plot(
                line["compression"], line["ce_recovered"], color=arm_style(arm).colour, marker="o", linestyle=":",
                markerfacecolor="white", linewidth=1, zorder=1,
            )  # fmt: skip
        return
    for (model, layer), line in groups(only(points, arm="expander", k=64), ["model", "layer"]):
        if _PAPER_LAYERS.get(model) == layer:
            line = line.sort_values("compression")
            axis.plot(line["compression"], line["ce_recovered"], color="0.6", linewidth=1, marker=".", zorder=1)
            end = line.iloc[-1]
            axis.annotate(f"{model} L{layer}", (end["compression"], end["ce_recovered"]), xytext=(4, -9), ha="right",
                          textcoords="offset points", fontsize=7, color="0.45")  # fmt: skip
