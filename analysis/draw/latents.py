"""The figure of what each arm's latents are like."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import arms
from analysis.draw.shared import legend, panel_title
from analysis.frames import dicts, groups
from analysis.tables.latents import MEASURES, NOVELTY_NULL
from analysis.tables.pairs import CELL, PANEL


def richest(table: pd.DataFrame) -> pd.DataFrame:
    """Of the panels the one with most arms, the largest k of several."""
    return max(groups(table, CELL), key=lambda panel: (len(set(panel[1]["arm"])), panel[0][3]))[1]


def summary_figure(panel: pd.DataFrame) -> Figure:
    """A column per measure, a row per arm, a point per d (larger points, larger d); where there is one, the null of
    novelty as a bar: what two runs that share nothing would show."""
    measures = [name for name in MEASURES if name in panel and any(panel[name].notna())]
    names = arms.in_order(panel["arm"])[::-1]
    figure, axes = plt.subplots(
        1, len(measures), figsize=(1.85 * len(measures) + 3, 0.42 * len(names) + 1.6), squeeze=False, sharey=True,
        layout="constrained",
    )  # fmt: skip
    degrees = sorted(panel["d"].dropna().unique())
    for axis, measure in zip(axes[0], measures, strict=True):
        for row in dicts(panel):
            y = names.index(row["arm"])
            size = 4 + 2.2 * degrees.index(row["d"]) if row["d"] in degrees else 6
            axis.errorbar(
                row[measure], y, xerr=row[f"{measure}_half_interval"], marker="o", markersize=size, capsize=0,
                color=arms.colour(row["arm"]), alpha=0.8, elinewidth=1,
            )  # fmt: skip
            if measure == "novelty_novel_fraction" and row.get(NOVELTY_NULL) == row.get(NOVELTY_NULL):
                axis.plot(row.get(NOVELTY_NULL), y, "|", color="0.3", markersize=11)
        axis.set_title(MEASURES[measure], fontsize=9, loc="left")
        axis.grid(color="0.92", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(names)), [arms.display(arm) for arm in names])
    first = dicts(panel)[0]
    about = f": {first['tokens']:,.0f} held-out tokens" if "tokens" in first else ""
    about += (
        f"; near-dead: fires at fewer than {first['near_dead_rate']:g} of them" if "near_dead_rate" in first else ""
    )
    title = panel_title([first[key] for key in PANEL], first["k"]) + about
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    legend(figure, [Line2D([], [], color="0.4", marker="o", linestyle="none", markersize=4 + 2.2 * i,
                           label=f"d = {d:.0f}") for i, d in enumerate(degrees)])  # fmt: skip
    return figure
