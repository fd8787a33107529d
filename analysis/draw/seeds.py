"""The figure of how far the seeds of one cell spread, drawn from `analysis.tables.controls`."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import arms
from analysis.draw.panels import panel_grid
from analysis.draw.shared import panel_title, plain_axis
from analysis.frames import dicts, groups, only, where
from analysis.tables.controls import ENOUGH_SEEDS
from analysis.tables.pairs import CELL


def seeds_figure(runs: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draw every seed's CE recovered minus its cell's mean, for cells with ENOUGH_SEEDS seeds or more.

    There is a row of panels per (model, layer, n), a panel per k, and in it a column per arm and size, with the 95 %
    interval of the mean, and below it how far the mean is from the floor.

    Args:
        runs: the runs that `analysis.tables.controls.seeds_table` made `table` of.
    """
    enough = where(table, table["seeds"] >= ENOUGH_SEEDS)
    panels = {(key[:3], key[3]): rows for key, rows in groups(enough, CELL)}
    grid = panel_grid(list(panels), size=(5.4, 4.2))
    for (key, k), panel in panels.items():
        axis = grid.axes[key, k]
        _draw_cells(axis, runs, panel)
        axis.set_title(panel_title(key, k), loc="left", fontsize=10)
        axis.set_ylabel("CE recovered, minus the mean over seeds", fontsize=9)
        axis.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        plain_axis(axis)
    return grid.figure


def _draw_cells(axis: Axes, runs: pd.DataFrame, panel: pd.DataFrame) -> None:
    by_arm = [only(panel, arm=arm) for arm in arms.in_order(panel["arm"])]
    cells = [cell for of_arm in by_arm for cell in dicts(of_arm.sort_values("d"))]
    for x, cell in enumerate(cells):
        points = _runs_of(runs, cell)["ce_recovered"] - cell["mean"]
        colour = arms.colour(cell["arm"])
        axis.plot([x] * len(points), points, "o", color=colour, alpha=0.55, markersize=5)
        axis.errorbar(x + 0.25, 0, yerr=cell["half_interval"], color=colour, capsize=4, marker="_")
    axis.set_xticks(range(len(cells)), [_name(cell) for cell in cells], rotation=30, ha="right", fontsize=8)
    axis.set_xlim(-0.6, max(len(cells), 4) - 0.4)


def _runs_of(runs: pd.DataFrame, cell: dict[str, object]) -> pd.DataFrame:
    found = only(runs, **{key: cell[key] for key in (*CELL, "arm", "n_latents")})
    return where(found, (found["d"] == cell["d"]) | found["d"].isna())


def _name(cell: dict[str, Any]) -> str:
    """Return the name of a column: arm, d, seeds, and how far its mean is above the floor."""
    d, above = cell["d"], cell["mean"] - cell["floor"]
    name = arms.display(cell["arm"]) + (f", d={d:.0f}" if d == d else "") + f" ({cell['seeds']})"
    return name + ("" if math.isnan(above) else f"\nfloor {above:+.3f} ± {cell['resolvable']:.3f}")
