"""Which panels a figure has, and where they stand. A study by grid has a few full ones; a search over k and n has
hundreds that hold one point each."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.arms import PCA, base
from analysis.frames import groups, part, where
from analysis.tables.pairs import CELL

MANY = 24  # panels up to which all are drawn, whatever they hold
MOST = 60
_COLUMNS = 5


def readable(name: str, table: pd.DataFrame, say: bool = True) -> pd.DataFrame:
    """The rows of `table` to draw in the figure `name`, a panel per (model, layer, n, k): all, where these are at most
    MANY; else those of panels with two points or more (an arm and its size; PCA, which stands in every panel, aside),
    and of more than MOST such panels those with the most points. With `say` it says on standard error how many were
    left out.
    """
    key = pd.MultiIndex.from_frame(part(table, CELL))
    count = {cell: _points(rows) for cell, rows in groups(table, CELL)}
    if len(count) <= MANY:
        return table
    several = [cell for cell, points in count.items() if points > 1]
    kept = sorted(several, key=lambda cell: -count[cell])[:MOST]
    if say and len(kept) < len(count):
        left = f"note: {name}: {len(count) - len(kept)} of {len(count)} panels are in the CSV only"
        if len(several) > MOST:
            said = f"{left}, those with the fewest points; --layer and --k choose others"
        else:
            said = f"{left}, those of a single point; pareto draws all runs of a layer in one panel"
        print(said, file=sys.stderr)
    return where(table, key.isin(kept))


def _points(rows: pd.DataFrame) -> int:
    return len({(arm, size) for arm, size in zip(rows["arm"], _sizes(rows), strict=True) if base(arm) != PCA})


def _sizes(rows: pd.DataFrame) -> list[str]:
    names = [name for name in ("d", "n_latents") if name in rows]
    return [str(size) for size in rows[names].itertuples(index=False)]


class Panels(NamedTuple):
    figure: Figure
    axes: dict[tuple[Any, Any], Axes]
    leading: set[tuple[Any, Any]]  # those that carry the label of their row's y axis


def panel_grid(
    cells: Sequence[tuple[Hashable, Any]], size: tuple[float, float] = (4.6, 3.4), share_y: bool = True
) -> Panels:
    """A panel for each (row, column) of `cells`: rows in their order, columns sorted, as a table where that would be
    more than half full, else one after the other. y is shared along a row.
    """
    rows, columns = list(dict.fromkeys(row for row, _ in cells)), sorted({column for _, column in cells})
    if not cells or 2 * len(cells) > len(rows) * len(columns):
        return _as_table(cells, rows, columns, size, share_y)
    width = min(_COLUMNS, math.ceil(math.sqrt(len(cells))))
    figure, grid = _subplots(-(-len(cells) // width), width, size)
    order = sorted(cells, key=lambda cell: (rows.index(cell[0]), cell[1]))
    axes = dict(zip(order, grid.flat, strict=False))
    for axis in grid.flat[len(cells) :]:
        axis.set_visible(False)
    first: dict[Hashable, Axes] = {}
    for (row, _), axis in axes.items():
        if share_y and first.setdefault(row, axis) is not axis:
            axis.sharey(first[row])
    return Panels(figure, axes, set(axes))


def _as_table(
    cells: Sequence[tuple[Hashable, Any]], rows: list[Any], columns: list[Any], size: tuple[float, float], share: bool
) -> Panels:
    figure, grid = _subplots(len(rows), len(columns), size, sharey="row" if share else False)
    there, axes, leading = set(cells), {}, set()
    for row, line in zip(rows, grid, strict=True):
        for column, axis in zip(columns, line, strict=True):
            axis.set_visible((row, column) in there)
            if (row, column) in there:
                axes[row, column] = axis
        first = next(column for column in columns if (row, column) in there)
        leading.add((row, first))
        axes[row, first].tick_params(labelleft=True)  # only the table's first column has them otherwise
    return Panels(figure, axes, leading)


def _subplots(n_rows: int, n_columns: int, size: tuple[float, float], sharey: Any = False) -> tuple[Figure, Any]:
    figsize = (size[0] * n_columns + 2.2, size[1] * n_rows + 0.3)
    return plt.subplots(n_rows, n_columns, figsize=figsize, squeeze=False, sharey=sharey, layout="constrained")
