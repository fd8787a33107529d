"""The figure of `analysis.tables.pareto`."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import arms
from analysis.draw.labels import label_points
from analysis.draw.shared import arm_style, legend, plain_axis, storage_axis
from analysis.draw.stairs import stairs
from analysis.frames import column, dicts, groups, part, where
from analysis.tables.frontier import X_AXES, Y_AXES
from analysis.tables.pareto import PLACE, X_DOWN, Y_DOWN

_INK = "0.15"
_SIZE = (7.6, 5.6)  # inches a panel
_READ = "ringed: no other run is as good in both and better in one; a point is one run"
_FAR = 1.6  # times the height of what is worth seeing: runs worse than that set no scale


def pareto_figure(table: pd.DataFrame, x: str, y: str) -> Figure:
    """A panel per (model, layer): every run as a point in its arm's colour, the Pareto set ringed on its staircase and
    labelled where there is room with those of d, k and n that differ in the panel.

    Args:
        table: from `analysis.tables.pareto.pareto_table` with the same x and y.
    """
    panels = groups(where(table, table["x"].notna() & table["y"].notna()), PLACE)
    columns = min(len(panels), 2 if len(panels) < 5 else 3)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(_SIZE[0] * columns + 2.4, _SIZE[1] * rows), squeeze=False, layout="constrained"
    )
    for axis, (place, panel) in zip(axes.flat, panels, strict=False):
        _draw(axis, panel, x, y)
        axis.set_title(_title(place, panel), loc="left", fontsize=10)
        free = ", and k costs nothing here" if _varies(panel, "k") else ""
        axis.set_xlabel(f"{x_label(panel, x)}\n{_READ}{free}", fontsize=9)
        axis.set_ylabel(Y_AXES[y], fontsize=9)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    legend(figure, _handles(table))
    figure.draw_without_rendering()  # now the panels have their size
    for axis, (_, panel) in zip(axes.flat, panels, strict=False):
        _label(axis, panel, x, y)
    return figure


def x_label(panel: pd.DataFrame, x: str) -> str:
    ns = set(panel["n"])
    if x == "compression" and len(ns) > 1:
        return f"compression: fewer decoder values than dense at n = {max(ns)}, the largest here (times)"
    return X_AXES[x][1]


def _title(place: tuple[Any, ...], panel: pd.DataFrame) -> str:
    """Model and layer, and what all runs have in common."""
    model, layer = place
    common = [f"{name} = {dicts(panel)[0][name]:.0f}" for name in ("n", "k", "d") if not _varies(panel, name)]
    common = [text for text in common if "nan" not in text]
    return ", ".join([f"{model}, after block {layer}", *common, f"{len(panel)} runs"])


def _draw(axis: Axes, panel: pd.DataFrame, x: str, y: str) -> None:
    for chosen in (False, True):  # the set on top
        for (arm,), runs in groups(where(panel, panel["pareto"] == chosen), ["arm"]):
            style = arm_style(arm)
            axis.plot(
                runs["x"], runs["y"], linestyle="none", marker=style.marker, markersize=6 if chosen else 5,
                color=style.colour, markerfacecolor="white" if style.hollow else style.colour,
                alpha=1 if chosen else 0.5, zorder=4 if chosen else 2,
            )  # fmt: skip
    axis.margins(x=0.09, y=0.09)
    storage_axis(axis, column(panel, "x"))
    best = where(panel, panel["pareto"])
    if len(best):
        axis.plot(best["x"], best["y"], linestyle="none", marker="o", markersize=11, markerfacecolor="none",
                  color=_INK, markeredgewidth=1, zorder=5)  # fmt: skip
        _make_room(axis, x)
        low, high = axis.get_xlim()
        axis.plot(*stairs(panel, x, high if x in X_DOWN else low), color=_INK, linewidth=1, zorder=3)
        axis.set_xlim(low, high)
        _zoom(axis, panel, y)
    plain_axis(axis)


def _make_room(axis: Axes, x: str) -> None:
    """Beyond the best x, for the text beside the first point of the set."""
    low, high = axis.get_xlim()
    edge = axis.transData.inverted().transform(axis.transAxes.transform((-0.1 if x in X_DOWN else 1.1, 0)))[0]
    axis.set_xlim((edge, high) if x in X_DOWN else (low, edge))


def _zoom(axis: Axes, panel: pd.DataFrame, y: str) -> None:
    """Leave out of sight what is far worse than nine tenths of the runs: runs that failed to train would flatten all
    others, and the smallest of all is in the set however bad it is. How many they are stands at the edge."""
    badness = column(panel, "y") if y in Y_DOWN else -column(panel, "y")
    best, most = float(badness.min()), float(badness.quantile(0.9))
    in_set = [bad for bad in badness[panel["pareto"]].tolist() if bad - best <= _FAR * (most - best)]
    edge = 1.12 * (max(most, *in_set, best) - best) + best
    hidden = badness > edge
    if float(badness.max()) - best <= _FAR * (edge - best):
        return
    limit, shift = edge if y in Y_DOWN else -edge, 0.14 * (edge - best)
    axis.set_ylim(*((best - shift, limit) if y in Y_DOWN else (limit, shift - best)))
    ringed = int((hidden & panel["pareto"]).sum())
    said = f"{hidden.sum()} worse run(s) beyond this edge" + (f", {ringed} of the set" if ringed else "")
    axis.annotate(
        said, (0.99, 0.985 if y in Y_DOWN else 0.015), xycoords="axes fraction", ha="right",
        va="top" if y in Y_DOWN else "bottom", fontsize=8, color="0.4",
        bbox={"color": "white", "alpha": 0.8, "pad": 1},
    )  # fmt: skip


def _label(axis: Axes, panel: pd.DataFrame, x: str, y: str) -> None:
    best = where(panel, panel["pareto"]).drop_duplicates(["x", "y"]).sort_values("x")
    points = [(row["x"], row["y"], size_of(row, panel)) for row in dicts(best)]
    others = part(where(panel, ~panel["pareto"]), ["x", "y"]).to_numpy()
    if points:
        line = np.column_stack(stairs(panel, x, axis.get_xlim()[x in X_DOWN]))
        label_points(axis, points, others, line, (-1 if x in X_DOWN else 1, -1 if y in Y_DOWN else 1))


def size_of(row: dict[str, Any], panel: pd.DataFrame) -> str:
    """What shaped a run, as far as it differs in its panel: d, or of a smaller dense SAE its n'; k; n; bits."""
    shape = {"d": row["d"], "k": row["k"], "n": row["n"]}
    if row["n_latents"] != row["n"]:
        shape = {"n'": row["n_latents"], "k": row["k"]}
    differing = [name for name, value in shape.items()
                 if value == value and (name == "n'" or _varies(panel, name))]  # fmt: skip
    bits = arms.parse(row["arm"]).bits
    words = ["dense"] if shape.get("d", 0) != shape.get("d", 0) else []
    words += [f"{name}={shape[name]:.0f}" for name in differing] + ([f"{bits} bits"] if bits else [])
    return ", ".join(words or [f"k={row['k']:.0f}"])


def _varies(panel: pd.DataFrame, name: str) -> bool:
    return column(panel, name).nunique(dropna=False) > 1


def _handles(table: pd.DataFrame) -> list[Artist]:
    """The set, then one of each look: rounded arms have that of their own arm."""
    ring = Line2D([], [], color=_INK, linewidth=1, marker="o", markersize=10, markerfacecolor="none",
                  label="best of any setting")  # fmt: skip
    looks: dict[str, list[str]] = {}
    for arm in arms.in_order(table["arm"]):
        looks.setdefault(arms.unrounded(arm), []).append(arm)
    handles: list[Artist] = [ring]
    for look, shown in looks.items():
        bits = [arms.parse(arm).bits or 32 for arm in shown]
        label = arms.display(look) + (f" ({', '.join(map(str, bits))} bits)" if bits != [32] else "")
        handles.append(arm_style(look)._replace(label=label, line="none").handle())
    return handles
