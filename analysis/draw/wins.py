"""Arm against arm, as a matrix."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

from analysis import arms
from analysis.frames import dicts, groups

_NAMES = {"encoder": "each read by its own encoder", "omp": "each read by OMP"}
_LINEAR = 0.004  # CE recovered: differences beyond are coloured by their logarithm


def wins_figure(table: pd.DataFrame) -> Figure:
    """A matrix per way of training and reading: how much more CE a row's arm recovers than a column's (blue more, red
    less), and in how many of their cells it does.

    Args:
        table: rows of `analysis.tables.pairs.wins_table` with `pursuit`, what trained both arms.
    """
    matrices = groups(table, ["pursuit", "inference"])
    found = [arms.in_order([*rows["arm"], *rows["other"]]) for _, rows in matrices]
    sizes = [max(0.58 * len(here), 2.2) for here in found]
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(sum(sizes) + 2.6 * len(sizes) + 1, max(sizes) + 2.6), squeeze=False,
        layout="constrained", width_ratios=sizes,
    )  # fmt: skip
    norm = SymLogNorm(_LINEAR, vmin=-0.5, vmax=0.5)
    for axis, ((pursuit, inference), rows), here in zip(axes[0], matrices, found, strict=True):
        axis.imshow(_fill(axis, rows, here, norm), cmap="RdBu", norm=norm)
        names = [arms.display(arm.split("+")[0]) for arm in here]
        axis.set_xticks(range(len(here)), names, rotation=40, ha="right", fontsize=8)
        axis.set_yticks(range(len(here)), names, fontsize=8)
        how = f"both trained by {pursuit}" if pursuit else _NAMES.get(inference, inference)
        axis.set_title(f"{how}\n(cells won / cells shared)", loc="left", fontsize=9)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    bar = figure.colorbar(
        ScalarMappable(norm, "RdBu"), ax=axes[0, -1], shrink=0.7, label="CE recovered, row minus column"
    )
    bar.set_ticks([-0.3, -0.1, -0.03, -0.01, 0, 0.01, 0.03, 0.1, 0.3])
    bar.ax.yaxis.set_major_formatter("{x:+g}")
    return figure


def _fill(axis: Axes, rows: pd.DataFrame, here: list[str], norm: SymLogNorm) -> np.ndarray:
    """Writes the counts; returns the differences (arms, arms), NaN where two share no cell."""
    differences = np.full((len(here), len(here)), np.nan)
    for pair in dicts(rows):
        i, j = here.index(pair["arm"]), here.index(pair["other"])
        differences[i, j], differences[j, i] = pair["difference"], -pair["difference"]
        for y, x, won in ((i, j, "cells_won"), (j, i, "cells_lost")):
            ink = "white" if abs(norm(abs(pair["difference"])) - 0.5) > 0.36 else "black"
            axis.text(x, y, f"{pair[won]}/{pair['cells']}", ha="center", va="center", fontsize=7, color=ink)
    return differences
