"""The choice of panels that a figure has, and their places.

A study by grid has a few full panels; a search over k and n has hundreds that hold one point each.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import DENSE, PCA, base
from analysis.frames import groups, part, where
from analysis.tables.pairs import CELL

MANY = 24  # panels: beyond so many, those of a single point are left out even where no panel has more
MOST = 60  # panels: a figure never has more
_FEW = 4  # the same for figures over sizes, where a panel of one place shows no line
_LEVELS = (*DENSE, PCA)  # arms that ignore d
_COLUMNS = 5  # panels side by side, where they do not stand as a table


def readable(name: str, table: pd.DataFrame, notes: bool = True, over: str | None = None) -> pd.DataFrame:
    """Return the rows of `table` to draw in the figure `name`, which has a panel per (model, layer, n, k).

    Panels with a single point are left out where another has more: a point is no frontier. Beyond MANY panels they are
    left out in any case, and of more than MOST panels those with the most points are kept. A point is an arm and its
    size; PCA stands in every panel and does not count. With `notes`, a line on standard error names the number of
    panels left out.

    Args:
        over: the column of the x axis where lines run over sizes: a point is then a place on it, of an arm that is no
            level; None where arms side by side are worth a panel.
    """
    cell_of_row = pd.MultiIndex.from_frame(part(table, CELL))
    points = {cell: _count_points(rows, over) for cell, rows in groups(table, CELL)}
    several = [cell for cell, count in points.items() if count > 1]
    if len(several) == len(points) <= MOST or (not several and len(points) <= (MANY if over is None else _FEW)):
        return table
    kept = sorted(several, key=lambda cell: -points[cell])[:MOST]
    if notes and len(kept) < len(points):
        left_out = f"note: {name}: {len(points) - len(kept)} of {len(points)} panels are in the CSV only"
        if len(several) > MOST:
            message = f"{left_out}, those with the fewest points; --layer and --k choose others"
        else:
            message = f"{left_out}, those of a single point"
            message += "; pareto draws all runs of a layer in one panel" if name == "frontier" else ""
        print(message, file=sys.stderr)
    return where(table, cell_of_row.isin(kept))


def fullest(name: str, table: pd.DataFrame, within: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Return the rows of the panels with at least half as many arms as the one with the most beside them.

    A line on standard error says how many panels the figure `name` leaves out.

    Args:
        within: the columns that say which panels stand beside each other.
        by: the columns in which these differ, such as `reading`.
    """
    panels = [(key[: len(within)], len(set(rows["arm"])), rows) for key, rows in groups(table, [*within, *by])]
    most: dict[tuple[Any, ...], int] = {}
    for beside, arms, _ in panels:
        most[beside] = max(arms, most.get(beside, 0))
    kept = [rows for beside, arms, rows in panels if 2 * arms >= most[beside]]
    if len(kept) == len(panels):
        return table
    message = f"note: {name}: {len(panels) - len(kept)} of {len(panels)} panels are in the CSV only, those of few arms"
    print(message, file=sys.stderr)
    return pd.concat(kept)


def _count_points(rows: pd.DataFrame, over: str | None) -> int:
    if over is not None:
        return len({place for arm, place in zip(rows["arm"], rows[over], strict=True) if base(arm) not in _LEVELS})
    return len({(arm, size) for arm, size in zip(rows["arm"], _sizes(rows), strict=True) if base(arm) != PCA})


def _sizes(rows: pd.DataFrame) -> list[str]:
    names = [name for name in ("d", "n_latents") if name in rows]
    return [str(size) for size in rows[names].itertuples(index=False)]


class Panels(NamedTuple):
    """A figure and its panels by (row, column)."""

    figure: Figure
    axes: dict[tuple[Any, Any], Axes]
    leading: set[tuple[Any, Any]]  # the panels that carry the label of their row's y axis


def panel_grid(
    cells: Sequence[tuple[Hashable, Any]], size: tuple[float, float] = (4.0, 3.1), share_y: bool = True
) -> Panels:
    """Make a figure with a panel for each (row, column) of `cells`.

    The panels stand as a table where that would be more than half full, else one after the other. Rows keep their
    order, columns are sorted, and y is shared along a row.

    Args:
        size: width and height of a panel, in inches.
    """
    rows, columns = list(dict.fromkeys(row for row, _ in cells)), sorted({column for _, column in cells})
    if not cells or 2 * len(cells) > len(rows) * len(columns):
        return _as_table(cells, rows, columns, size, share_y)
    width = min(_COLUMNS, math.ceil(math.sqrt(len(cells))))
    figure, grid = _panels_of_size(-(-len(cells) // width), width, size)
    order = sorted(cells, key=lambda cell: (rows.index(cell[0]), cell[1]))
    axes = dict(zip(order, grid.flat, strict=False))
    hide_unused(grid, len(cells))
    first: dict[Hashable, Axes] = {}
    for (row, _), axis in axes.items():
        if share_y and first.setdefault(row, axis) is not axis:
            axis.sharey(first[row])
    return Panels(figure, axes, set(axes))


def _as_table(
    cells: Sequence[tuple[Hashable, Any]], rows: list[Any], columns: list[Any], size: tuple[float, float], share: bool
) -> Panels:
    figure, grid = _panels_of_size(len(rows), len(columns), size, sharey="row" if share else False)
    present, axes, leading = set(cells), {}, set()
    for row, line in zip(rows, grid, strict=True):
        for column, axis in zip(columns, line, strict=True):
            axis.set_visible((row, column) in present)
            if (row, column) in present:
                axes[row, column] = axis
        first = next(column for column in columns if (row, column) in present)
        leading.add((row, first))
        axes[row, first].tick_params(labelleft=True)  # only the table's first column has them otherwise
    return Panels(figure, axes, leading)


def _panels_of_size(n_rows: int, n_columns: int, size: tuple[float, float], sharey: Any = False) -> tuple[Figure, Any]:
    """Make a figure for panels of `size` inches, with room for a legend on the right and for a title."""
    return subplots(n_rows, n_columns, (size[0] * n_columns + 2.2, size[1] * n_rows + 0.3), sharey=sharey)


def subplots(n_rows: int, n_columns: int, figsize: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Make a figure of `figsize` inches whose layout keeps texts apart, and its axes (n_rows, n_columns).

    Args:
        options: more arguments of `matplotlib.figure.Figure.subplots`.
    """
    figure = Figure(figsize=figsize, layout="constrained")  # pyplot would hold on to it, and warn of many
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **options)


def hide_unused(axes: Any, count: int) -> None:
    """Hide all of the array `axes` but the first `count`, row by row."""
    for axis in axes.flat[count:]:
        axis.set_visible(False)
