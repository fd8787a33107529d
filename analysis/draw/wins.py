"""The figure that sets arm against arm as a matrix, drawn from `analysis.tables.wins`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from analysis import arms
from analysis.draw.panels import subplots
from analysis.frames import dicts

_READINGS = {"encoder": "each read by its own encoder", "omp": "each read by OMP"}
_SQUARE, _NAMES = 0.58, 2.6  # inches of a square, and of the arms' names beside and below
_LINEAR = 0.004  # CE recovered: differences beyond are coloured by their logarithm


def wins_figure(table: pd.DataFrame) -> Figure:
    """Draw the matrix of one way of training and reading: row against column, in colour and in counts.

    A square's colour is how much more CE the row's arm recovers than the column's (blue more, red less). Its text says
    in how many of the cells, the (model, layer, n, k, d) that both arms have, the row's arm recovers more.

    Args:
        table: rows of `analysis.tables.wins.comparable_arms` of one pursuit and one inference.
    """
    pursuit, inference = table["pursuit"].iloc[0], table["inference"].iloc[0]
    labels = arms.in_order([*table["arm"], *table["other"]])
    side = max(_SQUARE * len(labels), 2.2) + _NAMES
    figure, axes = subplots(1, 1, (side + 1, side))
    axis, norm = axes[0, 0], SymLogNorm(_LINEAR, vmin=-0.5, vmax=0.5)
    axis.imshow(_write_counts(axis, table, labels, norm), cmap="RdBu", norm=norm)
    names = [arms.display(arms.parse(arm)._replace(pursuit=None).label) for arm in labels]
    axis.set_xticks(range(len(labels)), names, rotation=40, ha="right", fontsize=8)
    axis.set_yticks(range(len(labels)), names, fontsize=8)
    how = f"both trained by {pursuit}" if pursuit else _READINGS.get(inference, inference)
    axis.set_title(f"{how}\n(cells won / cells shared)", loc="left", fontsize=9)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    bar = figure.colorbar(ScalarMappable(norm, "RdBu"), ax=axis, shrink=0.7, label="CE recovered, row minus column")
    bar.set_ticks([-0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3])
    bar.ax.yaxis.set_major_formatter("{x:+g}")
    return figure


def _write_counts(axis: Axes, rows: pd.DataFrame, labels: list[str], norm: SymLogNorm) -> np.ndarray:
    """Write the counts of cells won; return the differences (arms, arms), NaN where two arms share no cell."""
    differences = np.full((len(labels), len(labels)), np.nan)
    for pair in dicts(rows):
        i, j = labels.index(pair["arm"]), labels.index(pair["other"])
        differences[i, j], differences[j, i] = pair["difference"], -pair["difference"]
        for y, x, won in ((i, j, "cells_won"), (j, i, "cells_lost")):
            ink = "white" if abs(norm(abs(pair["difference"])) - 0.5) > 0.36 else "black"
            axis.text(x, y, f"{pair[won]}/{pair['cells']}", ha="center", va="center", fontsize=7, color=ink)
    return differences
