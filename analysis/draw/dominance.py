"""The figure of which dictionary preserves the most at each size, drawn from `analysis.tables.dominance`."""

from __future__ import annotations

import math
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis import arms
from analysis.draw.floor import FLOOR_ID, say_missing, way_of_inference
from analysis.draw.panels import subplots
from analysis.draw.shared import panel_title, plain_axis
from analysis.frames import column, dicts, only
from analysis.tables.dominance import BUDGETS, NO_FLOOR, NOT_ABOVE
from sweep.store.human_size import human_size

_BUDGET_STYLES: dict[str, tuple[Any, str, str]] = {  # line, marker and words
    "one-shot expander": (":", "v", "at a one-shot expander's cost"),
    "one-shot dense": ("--", "s", "at a one-shot dense SAE's cost"),
    "unlimited": ("-", "o", "at any cost"),
}
_HOW_TO_READ = (
    "Stored bytes: the size of sae.safetensors. In a cell: the winner, its size, how it is read, and its {measure};"
    " then the best of the other kind (dense or sparse) minus the winner, same seeds, ±95 %. Grey: not above the best"
    " random dictionary of these bytes and this cost, as far as these seeds can tell; one seed alone tells nothing."
)
_PALE = "0.87"  # a cell whose winner is not above the floor
_WIDTH, _CURVES = 10.8, 2.5  # inches of the figure's width, and of the upper panel's height
_LINE, _SPARE = 0.125, 0.09  # inches of a cell's line of text, and of what it keeps free
_GAP = 0.03  # between two cells, as a share of their distance
_NAME, _NOTE = 50, 150  # characters of a line in a cell, and below the figure
_PCA_PLACE, _PCA_WIDTH = 2.78, 0.5  # of its column, where the distance of two columns is 1


class _Cell(NamedTuple):
    """What one dictionary wins: a budget's column, from one level to another, in places of the figure."""

    column: float
    first: int
    last: int
    colour: str
    text: str
    on_floor: bool  # the winner is not above the floor
    width: float = 1.0

    @property
    def height(self) -> float:
        """The height in inches that a level needs for the text."""
        return (_LINE * (self.text.count("\n") + 1) + _SPARE) / (self.last - self.first + 1)


def dominance_figure(table: pd.DataFrame, measure: str = "CE recovered") -> Figure:
    """Draw the best dictionary at each level of stored bytes of one (model, layer, n, k), in two panels.

    The upper panel has the most CE recovered, or most of another measure, against stored bytes, a line per budget of
    multiply-adds, above the floor of any budget. The lower panel has a row per level and a column per budget, with
    cells in their winners' colours: how each is read, what it scores and what the best of the other kind (sparse or
    dense) loses; a winner that is not above the floor is framed in its colour. Levels with the same cell share one.
    PCA, which is never a winner, has a column of its own.

    Args:
        table: from `analysis.tables.dominance.dominance_table`, the rows of one (model, layer, n, k).
        measure: the name of what is compared.
    """
    levels = sorted(table["level"].unique())
    cells = _cells(table, levels)
    rows = max(cell.height for cell in cells) * len(levels)
    figure, axes = subplots(2, 1, (_WIDTH, _CURVES + rows + 1.6), height_ratios=[_CURVES, rows])
    upper, lower = axes[:, 0]
    _draw_best(upper, table, levels, measure)
    _draw_cells(lower, cells, levels)
    run = dicts(table)[0]
    upper.set_title(panel_title((run["model"], run["layer"], run["n"]), run["k"]), loc="left", fontsize=11)
    upper.set_xlim(-0.5, len(levels) - 0.5)
    upper.set_xticks(range(len(levels)), [human_size(level) for level in levels], fontsize=8)
    look: dict[str, Any] = {"fontsize": 8, "frameon": False, "loc": "upper left", "ncols": 5, "borderaxespad": 0}
    upper.legend(handles=_handles(table), bbox_to_anchor=(0, -0.15 if any(table["floor"].notna()) else -0.27), **look)
    lower.text(-0.01, 1, "stored bytes\nat most", transform=lower.transAxes, ha="right", va="bottom", fontsize=8)
    lower.set_xlabel(fill(_HOW_TO_READ.format(measure=measure), _NOTE), loc="left", fontsize=7.5)
    return figure


def _handles(table: pd.DataFrame) -> list[Artist]:
    """Return the legend: the budgets, the floor and PCA where they are there. Cells name the arms."""
    handles: list[Artist] = []
    for line, marker, words in _BUDGET_STYLES.values():
        handles.append(Line2D([], [], color="0.25", linestyle=line, marker=marker, label=words))
    if any(table["floor"].notna()):
        handles.append(Patch(color=_PALE, label="floor at any cost: random dictionary"))
    if any(table["pca_mean"].notna()):
        handles.append(Line2D([], [], color=arms.colour("pca"), linewidth=2, label="PCA (not sparse)"))
    return handles


def _draw_best(axis: Axes, panel: pd.DataFrame, levels: list[int], measure: str) -> None:
    place = {level: i for i, level in enumerate(levels)}
    for budget, (line, marker, _) in _BUDGET_STYLES.items():
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
    axis.set_ylabel(measure, fontsize=9)
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


def _cells(table: pd.DataFrame, levels: list[int]) -> list[_Cell]:
    """Return a cell for each run of levels that have the same winner and say the same of it."""
    place = {level: i for i, level in enumerate(levels)}
    single = [
        _Cell(
            BUDGETS.index(row["budget"]),
            place[row["level"]],
            place[row["level"]],
            arms.colour(row["winner"]),
            _cell_text(row),
            row["verdict"] == NOT_ABOVE,
        )
        for row in dicts(table.sort_values("level"))
    ]
    pca = table.drop_duplicates("level").dropna(subset=["pca_mean"]).sort_values("level")
    for row in dicts(pca):
        text, at = f"n' = {row['pca_n_latents']:.0f}\n{row['pca_mean']:.3f}", place[row["level"]]
        single.append(_Cell(_PCA_PLACE, at, at, arms.colour("pca"), text, False, _PCA_WIDTH))
    return _joined(single)


def _joined(single: list[_Cell]) -> list[_Cell]:
    """Return cells of one level each, sorted by it, with those that follow each other and are alike made one."""
    cells: list[_Cell] = []
    last: dict[float, int] = {}  # where each column's last cell stands in `cells`
    for cell in single:
        at = last.get(cell.column)
        if at is not None and cells[at] == cell._replace(first=cells[at].first, last=cell.first - 1):
            cells[at] = cells[at]._replace(last=cell.last)
        else:
            last[cell.column] = len(cells)
            cells.append(cell)
    return cells


def _draw_cells(axis: Axes, cells: list[_Cell], levels: list[int]) -> None:
    for cell in cells:
        _draw_cell(axis, cell)
    with_pca = any(cell.column == _PCA_PLACE for cell in cells)
    names = [_BUDGET_STYLES[budget][2] for budget in BUDGETS]
    axis.xaxis.tick_top()
    axis.set_xticks([*range(len(BUDGETS)), *[_PCA_PLACE] * with_pca], [*names, *["PCA"] * with_pca], fontsize=9)
    axis.set_yticks(range(len(levels)), [human_size(level) for level in levels], fontsize=8)
    axis.set_xlim(-0.5, _PCA_PLACE + _PCA_WIDTH / 2 if with_pca else len(BUDGETS) - 0.5)
    axis.set_ylim(len(levels) - 0.5, -0.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _draw_cell(axis: Axes, cell: _Cell) -> None:
    """Draw a cell in its colour; where the winner is not above the floor, grey with a frame of that colour."""
    width, height = cell.width - _GAP, cell.last - cell.first + 1 - 2 * _GAP
    left, top = cell.column - width / 2, cell.first - 0.5 + _GAP
    fill_colour = _PALE if cell.on_floor else cell.colour
    frame: dict[str, Any] = {"edgecolor": cell.colour, "linewidth": 2 if cell.on_floor else 0}
    axis.add_patch(Rectangle((left, top), width, height, facecolor=fill_colour, **frame))
    # White on dark colours: the weights are those of a colour's channels in its brightness (ITU-R BT.601).
    ink = "white" if float(np.dot(to_rgb(fill_colour), (0.299, 0.587, 0.114))) < 0.58 else "black"
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "linespacing": 1.15}
    axis.text(cell.column, top + height / 2, cell.text, color=ink, **look)


def _cell_text(row: dict[str, Any]) -> str:
    sparse = arms.base(row["winner"]) in arms.SPARSE
    low_rank = arms.base(row["winner"]) == arms.LOW_RANK
    by_d = f"{'rank' if low_rank else 'd ='} {row['winner_d']:.0f}"
    size = by_d if sparse or low_rank else f"n' = {row['winner_n_latents']}"
    seeds = " (one seed)" if row["winner_seeds"] == 1 else ""
    seeds += " (no floor)" if row["verdict"] == NO_FLOOR else ""
    way = way_of_inference(row["winner"], row["winner_inference"])
    lines = [fill(arms.display(row["winner"]), _NAME), f"{size}, {way}: {row['winner_mean']:.3f}{seeds}"]
    difference, half = (row.get(f"other_kind_difference{part}", math.nan) for part in ("", "_half_interval"))
    if not math.isnan(difference):
        interval = "" if math.isnan(half) else f"±{half:.3f}"
        other = f"{'dense' if sparse else 'sparse'} {-difference:+.3f}{interval}"
        lines = [*lines, other] if len(lines[-1] + other) > _NAME else [*lines[:-1], f"{lines[-1]}; {other}"]
    return "\n".join(lines)
