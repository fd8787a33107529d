"""The figure of the Pareto set, drawn from `analysis.tables.pareto`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import arms
from analysis.draw.floor import COLOUR, FLOOR_ID, say_missing
from analysis.draw.labels import label_points
from analysis.draw.panels import hide_unused, subplots
from analysis.draw.shared import arm_handles, arm_style, legend, plain_axis, storage_axis
from analysis.draw.stairs import stairs
from analysis.frames import column, dicts, groups, part, where
from analysis.tables.frontier import X_AXES, Y_AXES
from analysis.tables.pareto import PLACE, X_DOWN, Y_DOWN

_INK = "0.15"
_SIZE = (7.6, 5.6)  # inches a panel
_HOW_TO_READ = "ringed: no other run is as good in both and better in one; a point is one run"
_FAR = 1.6  # runs further from the best than so many times the spread of the others do not set the scale


def pareto_figure(table: pd.DataFrame, x: str, y: str) -> Figure:
    """Draw every run as a point in its arm's colour, a panel per (model, layer).

    The Pareto set is ringed, on its staircase, and labelled where there is room with those of d, k and n that differ in
    the panel.

    Args:
        table: from `analysis.tables.pareto.pareto_table` with the same x and y.
    """
    panels = groups(where(table, table["x"].notna() & table["y"].notna()), PLACE)
    columns = min(len(panels), 2 if len(panels) < 5 else 3)
    rows = -(-len(panels) // columns)
    figure, axes = subplots(rows, columns, (_SIZE[0] * columns + 2.4, _SIZE[1] * rows))
    for axis, (place, panel) in zip(axes.flat, panels, strict=False):
        _draw(axis, panel, x, y)
        axis.set_title(_title(place, panel), loc="left", fontsize=10)
        free = ", and k costs nothing here" if _varies(panel, "k") else ""
        axis.set_xlabel(f"{_x_label(panel, x)}\n{_HOW_TO_READ}{free}", fontsize=9)
        axis.set_ylabel(Y_AXES[y], fontsize=9)
        _draw_floor(axis, panel, y)
    hide_unused(axes, len(panels))
    legend(figure, _handles(table))
    figure.draw_without_rendering()  # gives the panels the size that labels must fit into
    for axis, (_, panel) in zip(axes.flat, panels, strict=False):
        _label(axis, panel, x, y)
    return figure


def _x_label(panel: pd.DataFrame, x: str) -> str:
    ns = set(panel["n"])
    if x == "compression" and len(ns) > 1:
        return f"compression: fewer decoder values than dense at n = {max(ns)}, the largest here (times)"
    return X_AXES[x][1]


def _title(place: tuple[Any, ...], panel: pd.DataFrame) -> str:
    """Return the panel's model and layer, and those of n, k and d that all its runs have in common."""
    model, layer = place
    run = dicts(panel)[0]
    common = [f"{name} = {run[name]:.0f}" for name in ("n", "k", "d") if not _varies(panel, name)]
    common = [text for text in common if "nan" not in text]
    return ", ".join([f"{model}, after block {layer}", *common, f"{len(panel)} runs"])


def _draw(axis: Axes, panel: pd.DataFrame, x: str, y: str) -> None:
    _draw_runs(axis, where(panel, ~panel["pareto"]), {"markersize": 5, "alpha": 0.5, "zorder": 2})
    _draw_runs(axis, where(panel, panel["pareto"]), {"markersize": 6, "alpha": 1, "zorder": 4})
    axis.margins(x=0.09, y=0.09)
    storage_axis(axis, column(panel, "x"))
    best = where(panel, panel["pareto"])
    if len(best):
        axis.plot(best["x"], best["y"], color=_INK, linestyle="none", zorder=5, **_ring(size=11))
        _make_room(axis, x)
        low, high = axis.get_xlim()
        axis.plot(*stairs(panel, x, high if x in X_DOWN else low), color=_INK, linewidth=1, zorder=3)
        axis.set_xlim(low, high)
        _zoom(axis, panel, y)
    plain_axis(axis)


def _draw_floor(axis: Axes, panel: pd.DataFrame, y: str) -> None:
    """Draw the best random dictionary that stands beside a run of the panel, of whatever k and n, as a level."""
    floors = column(panel, "floor").dropna()
    if floors.empty:
        say_missing(axis)
    else:
        best = float(floors.min() if y in Y_DOWN else floors.max())
        axis.axhline(best, color=COLOUR, linestyle="--", linewidth=1.2, zorder=1, gid=FLOOR_ID)


def _draw_runs(axis: Axes, runs: pd.DataFrame, look: dict[str, Any]) -> None:
    for (arm,), points in groups(runs, ["arm"]):
        style = arm_style(arm)
        face = "white" if style.hollow else style.colour
        own: dict[str, Any] = {"marker": style.marker, "color": style.colour, "markerfacecolor": face}
        axis.plot(points["x"], points["y"], linestyle="none", **own, **look)


def _ring(size: float) -> dict[str, Any]:
    return {"marker": "o", "markersize": size, "markerfacecolor": "none", "markeredgewidth": 1}


def _make_room(axis: Axes, x: str) -> None:
    """Widen the x axis beyond its best end, for the text beside the first point of the set."""
    low, high = axis.get_xlim()
    edge = axis.transData.inverted().transform(axis.transAxes.transform((-0.1 if x in X_DOWN else 1.1, 0)))[0]
    axis.set_xlim((edge, high) if x in X_DOWN else (low, edge))


def _zoom(axis: Axes, panel: pd.DataFrame, y: str) -> None:
    """Leave out of sight the runs that are far worse than nine tenths of all, and write their number at the edge.

    Runs that failed to train would flatten all others, and the smallest run of all is in the set however bad it is.
    """
    badness = column(panel, "y") if y in Y_DOWN else -column(panel, "y")
    best, most = float(badness.min()), float(badness.quantile(0.9))
    in_set = [bad for bad in badness[panel["pareto"]].tolist() if bad - best <= _FAR * (most - best)]
    edge = 1.12 * (max(most, *in_set, best) - best) + best
    if float(badness.max()) - best <= _FAR * (edge - best):
        return
    margin = 0.14 * (edge - best)  # beyond the best
    axis.set_ylim(*((best - margin, edge) if y in Y_DOWN else (-edge, margin - best)))
    hidden = badness > edge
    hidden_in_set = int((hidden & panel["pareto"]).sum())
    text = f"{hidden.sum()} worse run(s) beyond this edge" + (f", {hidden_in_set} of the set" if hidden_in_set else "")
    corner = (0.99, 0.985 if y in Y_DOWN else 0.015)
    look: dict[str, Any] = {"fontsize": 8, "color": "0.4", "bbox": {"color": "white", "alpha": 0.8, "pad": 1}}
    axis.annotate(text, corner, xycoords="axes fraction", ha="right", va="top" if y in Y_DOWN else "bottom", **look)


def _label(axis: Axes, panel: pd.DataFrame, x: str, y: str) -> None:
    best = where(panel, panel["pareto"]).drop_duplicates(["x", "y"]).sort_values("x")
    points = [(row["x"], row["y"], _text(row, panel, best)) for row in dicts(best)]
    others = part(where(panel, ~panel["pareto"]), ["x", "y"]).to_numpy()
    if points:
        line = np.column_stack(stairs(panel, x, axis.get_xlim()[x in X_DOWN]))
        label_points(axis, points, others, line, (-1 if x in X_DOWN else 1, -1 if y in Y_DOWN else 1))


def _text(row: dict[str, Any], panel: pd.DataFrame, best: pd.DataFrame) -> str:
    """Return what shaped a run, as far as it differs in its panel: d (or n' of a smaller dense SAE), k, n and bits.

    Where the set has several base arms, the run's stands above.
    """
    smaller, named = row["n_latents"] != row["n"], len(set(best["arm"].map(arms.base))) > 1
    words = ["dense"] if not smaller and math.isnan(row["d"]) and not named else []
    words += [f"n'={row['n_latents']:.0f}"] if smaller else []
    for name in ("k",) if smaller else ("d", "k", "n"):
        if not math.isnan(row[name]) and _varies(panel, name):
            words.append(f"{name}={row[name]:.0f}")
    rounding = arms.parse(row["arm"]).bits_in_words
    words += [rounding] if rounding else []
    sizes = ", ".join(words or [f"k={row['k']:.0f}"])
    return f"{arms.display(arms.base(row['arm']))}\n{sizes}" if named else sizes


def _varies(panel: pd.DataFrame, name: str) -> bool:
    return column(panel, name).nunique(dropna=False) > 1


def _handles(table: pd.DataFrame) -> list[Artist]:
    """Return the legend: the set, then each colour and marker once."""
    handles: list[Artist] = [Line2D([], [], color=_INK, linewidth=1, label="best of any setting", **_ring(size=10))]
    handles += arm_handles(table["arm"], line="none")
    if any(table["floor"].notna()):
        handles.append(Line2D([], [], color=COLOUR, linestyle="--", label="floor: the best\nrandom dictionary"))
    return handles
