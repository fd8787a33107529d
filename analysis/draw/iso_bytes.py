"""The figure of sparse against dense dictionaries at equal stored bytes, drawn from `analysis.tables.iso_bytes`."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import arms
from analysis.draw.floor import FLOOR_ID
from analysis.draw.panels import subplots
from analysis.draw.shared import COLOURS, legend, panel_title, plain_axis
from analysis.frames import column, dicts, groups, only
from analysis.tables.iso_bytes import ANY, AT_DENSE_COST, FLOATS, ONE_SHOT, RULES, SHARES, SIDES, VALUES
from sweep.store.human_size import human_size

_COLOURS = {"sparse": COLOURS[0], "dense": COLOURS[2]}
_MARKERS = {"sparse": "o", "dense": "s"}
_TITLES = {
    ONE_SHOT: "both read one-shot",
    AT_DENSE_COST: "sparse one at the dense one's one-shot cost",
    ANY: "read in any way",
}
_PALE = "0.87"


def iso_bytes_figure(table: pd.DataFrame, measure: str = "CE recovered") -> Figure:
    """Draw the best sparse and the best dense dictionary against stored bytes, a column of panels for each rule.

    The rows of panels are those of values of 32 bits and of any bits. Each point names its dictionary.

    Args:
        table: from `analysis.tables.iso_bytes.iso_bytes_table`, the rows of one (model, layer, n, k).
        measure: the name of what is compared.
    """
    ((*panel, k), _) = groups(table, ["model", "layer", "n", "k"])[0]
    rows = [values for values in VALUES if len(only(table, values=values))]
    figure, axes = subplots(len(rows), len(RULES), (15.5, 4.6 * len(rows)))
    shares = [share for share in SHARES if share in set(table["share"])]
    bottom = _lowest(table)
    for line, values in zip(axes, rows, strict=True):
        for axis, rule in zip(line, RULES, strict=True):
            points = only(table, values=values, rule=rule)
            _draw(axis, points, shares)
            axis.set_ylim(bottom, 1.03)  # room for names above the best points
            size = "values of 32 bits" if values == FLOATS else "values of any bits"
            axis.set_title(f"{_TITLES[rule]}, {size}", fontsize=9)
            axis.set_xlabel("stored bytes at most: share of the full dense SAE's", fontsize=9)
        line[0].set_ylabel(measure)
    figure.suptitle(panel_title(panel, k), x=0.01, ha="left", fontsize=11)
    legend(figure, _handles())
    return figure


def _lowest(table: pd.DataFrame) -> float:
    """Return where the y axis starts: a little below the lowest point, the floor left aside."""
    means = [value for side in SIDES for value in column(table, f"{side}_mean").dropna().tolist()]
    return max(0.0, min(means) - 0.3 * (1 - min(means)))


def _draw(axis: Axes, points: pd.DataFrame, shares: list[int]) -> None:
    place = {share: i for i, share in enumerate(shares)}
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        found = points.dropna(subset=[f"{side}_mean"])
        xs = [place[share] for share in found["share"]]
        look: dict[str, Any] = {"color": _COLOURS[side], "marker": _MARKERS[side], "capsize": 3, "linewidth": 1.4}
        axis.errorbar(xs, found[f"{side}_mean"], yerr=found[f"{side}_half_interval"], **look)
        for x, row in zip(xs, dicts(found), strict=True):
            below = row[f"{side}_mean"] < row.get(f"{other}_mean", math.nan)
            offset, where = (-9, "top") if below else (9, "bottom")
            text: dict[str, Any] = {"fontsize": 5.6, "ha": "center", "va": where, "color": _COLOURS[side]}
            axis.annotate(_name(row, side), (x, row[f"{side}_mean"]), (0, offset), textcoords="offset points", **text)
    floor = points.dropna(subset=["floor"])
    if len(floor):
        edges = [place[share] for share in floor["share"]]
        axis.fill_between(edges, 0, floor["floor"], color=_PALE, linewidth=0, zorder=0, gid=FLOOR_ID)
    levels = {share: human_size(level) for share, level in zip(points["share"], points["level"], strict=True)}
    axis.set_xticks(range(len(shares)), [f"1/{share}\n{levels.get(share, '')}" for share in shares], fontsize=7)
    axis.set_xlim(-0.5, len(shares) - 0.5)
    plain_axis(axis)


def _name(row: dict[str, Any], side: str) -> str:
    """Return the dictionary of a point in a few short lines: its arm, basis, size and bits, and its reading."""
    arm = arms.parse(row[side])
    sizes = [f"d={row[f'{side}_d']:.0f}"] if side != "dense" else []
    sizes += [f"n'={row[f'{side}_n_latents']:.0f}"] if side == "dense" or arm.prefix else []
    size = " ".join(sizes)
    bits = f" {arm.bits}-bit{f' {arm.manner}' if arm.how else ''}" if arm.bits else ""
    reading = row[f"{side}_inference"]
    read = (arm.pursuit or "") if reading == "encoder" else f"by {reading}"
    base = arm.base.replace("dense_matched", "dense").replace("_", " ")
    lines = [base, (arm.basis or "").replace("reflections", "R=").replace("_", " "), size + bits, read]
    return "\n".join(line for line in lines if line)


def _handles() -> list[Any]:
    sides = [
        Line2D([], [], color=_COLOURS[side], marker=_MARKERS[side], label=f"best {side} dictionary") for side in SIDES
    ]
    return [*sides, Patch(color=_PALE, label="floor: random dictionary,\nsame rule")]
