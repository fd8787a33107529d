"""The figure of which dictionary preserves the most at each size, drawn from `analysis.tables.dominance`."""

from __future__ import annotations

import math
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis import arms
from analysis.draw.floor import FLOOR_ID, say_missing
from analysis.draw.panels import subplots
from analysis.draw.shared import legend, panel_title, plain_axis
from analysis.frames import column, dicts, groups, only
from analysis.tables.dominance import BUDGETS, NOT_ABOVE, ONE_SEED
from sweep.store.human_size import human_size

_BUDGET_STYLES: dict[str, tuple[Any, str]] = {  # line and marker
    "one-shot expander": (":", "v"),
    "one-shot dense": ("--", "s"),
    "unlimited": ("-", "o"),
}
_HOW_TO_READ = (
    "in a cell: the winner (R: reflections), its size, how it is read, its {measure}; then the best of the other kind"
    " (dense or sparse) minus the winner, same seeds, ±95 %;\ngrey: no better than the best random dictionary that"
    " fits, as far as these seeds can tell, which one seed cannot"
)
_PALE = "0.87"  # a cell whose winner is not above the floor
_CELL = (0.96, 0.92)  # width and height of a cell; the distance between two is 1


def dominance_figure(table: pd.DataFrame, measure: str = "CE recovered") -> Figure:
    """Draw, for each k of one (model, layer, n), the best dictionary at each level of stored bytes, in two panels.

    The upper panel has the most CE recovered, or most of another measure, against stored bytes, a line per budget of
    multiply-adds, above the floor of any budget. The lower panel has a row per budget and a cell per level in the
    winner's colour, with how the winner is read and what the best of the other kind (sparse or dense) loses; a winner
    that is not above the floor is framed in its colour. PCA, which is never a winner, has a row of its own.

    Args:
        table: from `analysis.tables.dominance.dominance_table`, the rows of one (model, layer, n).
        measure: the name of what is compared.
    """
    panels = groups(table, ["model", "layer", "n", "k"])
    levels = sorted(table["level"].unique())
    width = max(9.0, 1.45 * len(levels)) + 2.4
    heights = [1, 1.2] * len(panels)
    figure, axes = subplots(2 * len(panels), 1, (width, 7.0 * len(panels)), height_ratios=heights)
    for i, ((model, layer, n, k), panel) in enumerate(panels):
        upper, lower = axes[2 * i, 0], axes[2 * i + 1, 0]
        _draw_best(upper, panel, levels, measure)
        _draw_winners(lower, panel, levels)
        upper.set_title(panel_title((model, layer, n), k), loc="left", fontsize=11)
        for axis in (upper, lower):
            axis.set_xlim(-0.5, len(levels) - 0.5)
            axis.set_xticks(range(len(levels)), [human_size(level) for level in levels])
        how = _HOW_TO_READ.format(measure=measure)
        lower.set_xlabel(f"stored bytes at most (size of sae.safetensors)\n{how}")
    legend(figure, _handles(table))
    return figure


def _handles(table: pd.DataFrame) -> list[Artist]:
    """Return the legend: the budgets, PCA where it is there, and each arm once, whatever its values are rounded to."""
    handles: list[Artist] = []
    for budget, (line, marker) in _BUDGET_STYLES.items():
        handles.append(Line2D([], [], color="0.25", linestyle=line, marker=marker, label=budget))
    if any(table["floor"].notna()):
        handles.append(Patch(color=_PALE, label="floor: random dictionary,\nunlimited; its winners grey"))
    if any(table["pca_mean"].notna()):
        handles.append(Line2D([], [], color=arms.colour("pca"), linewidth=2, label="PCA (not sparse)"))
    labels = arms.in_order(map(arms.unrounded, table["winner"]))
    return [*handles, *(Patch(color=arms.colour(arm), label=arms.display(arm)) for arm in labels)]


def _draw_best(axis: Axes, panel: pd.DataFrame, levels: list[int], measure: str) -> None:
    place = {level: i for i, level in enumerate(levels)}
    for budget, (line, marker) in _BUDGET_STYLES.items():
        rows = only(panel, budget=budget).sort_values("level")
        xs = [place[level] for level in rows["level"]]
        axis.plot(xs, rows["winner_mean"], color="0.45", linestyle=line, linewidth=1.3, zorder=1)
        look: dict[str, Any] = {"marker": marker, "markersize": 7, "capsize": 3, "linestyle": "none"}
        for x, row in zip(xs, dicts(rows), strict=True):
            colour, half = arms.colour(row["winner"]), row["winner_half_interval"]
            axis.errorbar(x, row["winner_mean"], yerr=half, color=colour, **look)
    pca = panel.drop_duplicates("level").sort_values("level").dropna(subset=["pca_mean"])
    xs = [place[level] for level in pca["level"]]
    axis.plot(xs, pca["pca_mean"], color=arms.colour("pca"), linewidth=2, zorder=0)
    axis.set_ylabel(measure)
    least = min(column(panel, "winner_mean").tolist())
    low = max(0.0, min(least - 0.05, 0.98 * least))  # PCA may start far below
    floor = only(panel, budget="unlimited").dropna(subset=["floor"]).sort_values("level")
    if len(floor):
        xs = [place[level] for level in floor["level"]]
        edges = [xs[0] - 0.5, *xs, xs[-1] + 0.5]
        heights = [floor["floor"].iloc[0], *floor["floor"], floor["floor"].iloc[-1]]
        axis.fill_between(edges, low, heights, color=_PALE, linewidth=0, zorder=0, gid=FLOOR_ID)
    else:
        say_missing(axis)
    axis.set_ylim(bottom=low)
    plain_axis(axis)


def _draw_winners(axis: Axes, panel: pd.DataFrame, levels: list[int]) -> None:
    place = {level: i for i, level in enumerate(levels)}
    for row in dicts(panel):
        colour, at = arms.colour(row["winner"]), (place[row["level"]], BUDGETS.index(row["budget"]))
        _draw_cell(axis, *at, colour, _cell_text(row), on_floor=row["verdict"] == NOT_ABOVE)
    pca = panel.drop_duplicates("level").dropna(subset=["pca_mean"])
    for row in dicts(pca):
        text = f"n' = {row['pca_n_latents']:.0f}\n{row['pca_mean']:.3f}"
        _draw_cell(axis, place[row["level"]], len(BUDGETS), arms.colour("pca"), text, height=0.5)
    rows = [budget.replace(" ", "\n") for budget in BUDGETS]
    axis.set_yticks(range(len(rows)), rows)
    if len(pca):
        axis.set_yticks([*range(len(rows)), len(rows) - 0.22], [*rows, "PCA"])
    axis.set_ylim(len(BUDGETS) - (0.5 if pca.empty else -0.1), -0.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _draw_cell(
    axis: Axes, x: int, y: int, colour: str, text: str, height: float = _CELL[1], on_floor: bool = False
) -> None:
    """Draw a cell in a colour; where the winner is not above the floor, grey with a frame of that colour."""
    left, top = x - _CELL[0] / 2, y - _CELL[1] / 2
    fill = _PALE if on_floor else colour
    frame: dict[str, Any] = {"edgecolor": colour, "linewidth": 2.5 if on_floor else 0}
    axis.add_patch(Rectangle((left, top), _CELL[0], height, facecolor=fill, **frame))
    # White on dark colours: the weights are those of a colour's channels in its brightness (ITU-R BT.601).
    ink = "white" if float(np.dot(to_rgb(fill), (0.299, 0.587, 0.114))) < 0.58 else "black"
    axis.text(x, top + height / 2, text, ha="center", va="center", fontsize=7, color=ink, linespacing=1.25)


_WIDEST = 22  # characters of a line that fits a cell


def _cell_text(row: dict[str, Any]) -> str:
    sparse = arms.base(row["winner"]) in arms.SPARSE
    low_rank = arms.base(row["winner"]) == arms.LOW_RANK
    by_d = f"{'rank' if low_rank else 'd ='} {row['winner_d']:.0f}"
    size = by_d if sparse or low_rank else f"n' = {row['winner_n_latents']}"
    seeds = " (one seed)" if row["verdict"] == ONE_SEED else ""
    lines = [_short_name(row["winner"]), size, f"by {_reading(row)}", f"{row['winner_mean']:.3f}{seeds}"]
    difference, half = (row.get(f"other_kind_difference{part}", math.nan) for part in ("", "_half_interval"))
    if not math.isnan(difference):
        interval = "" if math.isnan(half) else f"±{half:.3f}"
        lines.append(f"{'dense' if sparse else 'sparse'} {-difference:+.3f}{interval}")
    if row["verdict"] == NOT_ABOVE:
        lines.append("not above\nthe floor")
    return "\n".join(lines)


def _short_name(label: str) -> str:
    arm = arms.parse(label)
    name = arm.base.replace("dense_matched", "dense_m.").replace("_parameters", "_par").replace("_", " ")
    basis = f" {arm.basis.replace('reflections', 'R')}" if arm.basis else ""  # the whole name would not fit a cell
    bits = f" {arm.bits}-bit" if arm.bits else ""
    if not arm.how:
        return name + basis + bits
    return "\n".join([name + basis, *wrap(f"{bits} {arm.manner}".strip(), _WIDEST)])


def _reading(row: dict[str, Any]) -> str:
    """Return how the winner's codes are read and, where a pursuit trained the dictionary, which one."""
    pursuit, reading = arms.parse(row["winner"]).pursuit, row["winner_inference"]
    if pursuit is None:
        return reading
    return f"{pursuit} (trained)" if reading == "encoder" else f"{reading}\n({pursuit}-trained)"
