"""The figure of the storage-fidelity frontier, drawn from `analysis.tables.frontier`."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.arms import in_order
from analysis.draw.floor import draw_floors, floor_handles
from analysis.draw.panels import panel_grid
from analysis.draw.shared import arm_style, draw_line, legend, panel_title, plain_axis, storage_axis
from analysis.draw.stairs import clipped, stairs
from analysis.frames import among, column, groups, only
from analysis.tables.frontier import REFERENCE_ARMS, X_AXES, Y_AXES
from analysis.tables.pairs import CELL, MODEL_LAYER_N
from analysis.tables.pareto import X_DOWN, storage
from analysis.tables.published import published

_LABEL = 46  # characters of a line of an axis' label
_BEST_COLOUR = "0.6"  # the staircase through the Pareto set
# The layer of each LM in the paper's first table.
_PAPER_LAYERS = {"pythia-70m-deduped": 3, "pythia-160m-deduped": 8, "qwen2.5-3b": 12, "llama-3.2-1b": 12}


def frontier_figure(
    table: pd.DataFrame, x: str, y: str, with_published: bool = False, best: pd.DataFrame | None = None
) -> Figure:
    """Draw `y` against storage: a row of panels per (model, layer, n), one panel per k, a line per arm.

    Full dense arms, which ignore d, are horizontal levels. The floor is grey: over compression a line at the d that
    random dictionaries were measured at, over bytes and values, of which they store almost none, a level.

    Args:
        table: from `analysis.tables.frontier.frontier_table` with the same x and y.
        with_published: draw the paper's points (x = compression, y = ce_recovered only): hollow in the arm's colour
            where a panel is one of the paper's, else the expanders of each of its LMs at k = 64, pale.
        best: from `analysis.tables.pareto.pareto_table` with the same x and y: draw its staircase of the
            (model, layer) into each panel, thin and grey.
    """
    panels = {(key[:3], key[3]): rows for key, rows in groups(table, CELL)}
    grid = panel_grid(list(panels), size=(4.4, 3.8))
    floors: set[str] = set()  # the ways of reading whose floor is drawn
    for (panel, k), rows in panels.items():
        axis = grid.axes[panel, k]
        _draw_arms(axis, rows)
        storages = [column(rows, "x")]
        if with_published:
            _draw_published(axis, (*panel, k), set(rows["arm"]))
            storages.append(column(published(), "compression"))
        axis.set_title(panel_title(panel, k), loc="left", fontsize=10)
        axis.set_xlabel(fill(X_AXES[x][1], _LABEL), fontsize=9)
        floors |= draw_floors(axis, rows, "x", y, level=x in X_DOWN)
        if (panel, k) in grid.leading:
            axis.set_ylabel(fill(Y_AXES[y], _LABEL), fontsize=9)
        storage_axis(axis, pd.concat(storages))
        plain_axis(axis)
        if best is not None:
            _draw_best(axis, only(best, model=panel[0], layer=panel[1]), x, panel[2])
    legend(grid.figure, [*_handles(table, with_published, best is not None), *floor_handles(floors)])
    return grid.figure


def _handles(table: pd.DataFrame, with_published: bool, with_best: bool) -> list[Artist]:
    handles: list[Artist] = [_arm_handle(arm) for arm in in_order(table["arm"])]
    if with_published:
        label = "published (other LMs, k=64: grey)"
        handles.append(Line2D([], [], color="0.5", marker=".", linestyle=":", label=label))
    if with_best:
        label = "best of any setting\n(any k, n, d, arm; single runs)"
        handles.append(Line2D([], [], color=_BEST_COLOUR, linewidth=1, label=label))
    return handles


def _arm_handle(arm: str) -> Artist:
    style = arm_style(arm)
    return style._replace(marker="" if arm in REFERENCE_ARMS else style.marker).handle()


def _draw_best(axis: Axes, runs: pd.DataFrame, x: str, n: int) -> None:
    """Draw the staircase of `runs` across the panel; compression is counted from the dense SAE of the panel's own n."""
    runs = runs.assign(x=storage(runs, x, n))
    if not any(runs["pareto"]):
        return
    left, right = axis.get_xlim()
    xs, ys = stairs(runs, x, right if x in X_DOWN else left)
    xs, ys = clipped(xs, ys, left, right)
    axis.plot(xs, ys, color=_BEST_COLOUR, linewidth=1, zorder=1)
    axis.set_xlim(left, right)


def _draw_arms(axis: Axes, panel: pd.DataFrame) -> None:
    for (arm,), line in groups(panel, ["arm"]):
        style = arm_style(arm)
        if arm not in REFERENCE_ARMS:
            draw_line(axis, line.sort_values("x"), "x", style)
            continue
        level, half = float(line["mean"].iloc[0]), float(line["half_interval"].iloc[0])
        axis.axhline(level, color=style.colour, linestyle=style.line, linewidth=1.2)
        if half > 0:
            axis.axhspan(level - half, level + half, color=style.colour, alpha=0.12, linewidth=0)


def _draw_published(axis: Axes, cell: tuple[object, ...], arms_here: set[str]) -> None:
    """Draw the paper's own points of this cell; where it has none, its expanders at k = 64, a grey line per LM."""
    points = only(published(), inference="encoder")
    same_cell = only(points, **dict(zip([*MODEL_LAYER_N, "k"], cell, strict=True)))
    if len(same_cell):
        look: dict[str, Any] = {"marker": "o", "linestyle": ":", "markerfacecolor": "white", "linewidth": 1}
        for (arm,), line in groups(among(same_cell, "arm", list(arms_here)), ["arm"]):
            line = line.sort_values("compression")
            axis.plot(line["compression"], line["ce_recovered"], color=arm_style(arm).colour, zorder=1, **look)
        return
    for (model, layer), line in groups(only(points, arm="expander", k=64), ["model", "layer"]):
        if _PAPER_LAYERS.get(model) == layer:
            _draw_other_lm(axis, line.sort_values("compression"), f"{model} L{layer}")


def _draw_other_lm(axis: Axes, line: pd.DataFrame, name: str) -> None:
    axis.plot(line["compression"], line["ce_recovered"], color="0.6", linewidth=1, marker=".", zorder=1)
    end = line.iloc[-1]
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": "0.45", "ha": "right"}
    axis.annotate(name, (end["compression"], end["ce_recovered"]), xytext=(4, -9), **look)
