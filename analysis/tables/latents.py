"""What the latents of each arm are like: dead, rare, new, steady, in collision, diverse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import arms
from analysis.draw.shared import legend, panel_title
from analysis.frames import dicts, groups, sorted_by_arm, where
from analysis.latex.write import latex_table, pm, whole
from analysis.output import Options, Output, chosen
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.pairs import CELL, PANEL
from analysis.tables.stats import half_interval

_BY = [*CELL, "arm", "d"]
_NULL = "novelty_novel_fraction_null"
MEASURES = {  # column: what people call it
    "dead_fraction": "dead",
    "near_dead_fraction": "near-dead",
    "novelty_novel_fraction": "novel (| null)",
    "split_half_reliability": "split-half reliability",
    "collisions": "collisions",
    "supports_distinct_fraction": "distinct supports",
    "supports_mean_overlap": "overlap of supports",
    "token_entropy": "token entropy",
    "cosine_mean_best": "best cosine",
}


def latents_summary(records: Records, options: Options) -> list[Output]:
    """A figure of the panel (model, layer, n, k) with most arms, LaTeX of all; both of arms trained one-shot and not
    rounded, or those asked for. The CSV has every arm."""
    table = summary_table(chosen(records.runs, options))
    drawn = table if options.arms else where(table, table["arm"].map(arms.plain))
    drawn = table if drawn.empty else drawn
    return [Output("latents_summary", table, summary_figure(_richest(drawn)), _latex(drawn))]


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per (model, layer, n, k, arm, d): mean over seeds and `<measure>_half_interval` (95 %) of every number
    under the records' `latents`, nested ones joined by `_`, and seeds.

    Raises:
        NoRunsError: no record has any.
    """
    rows = [
        {**{key: run[key] for key in (*_BY, "seed")}, **dict(_numbers(run["latents"]))}
        for run in dicts(runs)
        if run["latents"]
    ]
    if not rows:
        raise NoRunsError("no record says what its latents are like: that is kept by runs of this version")
    found = pd.DataFrame(rows)
    measures = [name for name in found.columns if name not in (*_BY, "seed")]
    grouped = found.groupby(_BY, dropna=False)
    columns = {"seeds": ("seed", "size")}
    for name in measures:
        columns |= {name: (name, "mean"), f"{name}_half_interval": (name, half_interval)}
    table = grouped.agg(**columns).reset_index()  # type: ignore[call-overload]
    return sorted_by_arm(table, CELL, ["d"])


def _numbers(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested dicts, under its path; histograms and quantiles are no single numbers."""
    for key, value in found.items():
        if isinstance(value, dict) and not key.startswith("firing_rate"):
            yield from _numbers(value, f"{prefix}{key}_")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _richest(table: pd.DataFrame) -> pd.DataFrame:
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
            if measure == "novelty_novel_fraction" and row.get(_NULL) == row.get(_NULL):
                axis.plot(row.get(_NULL), y, "|", color="0.3", markersize=11)
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


def _latex(table: pd.DataFrame) -> str:
    shown = [name for name in (*MEASURES, _NULL) if name in table and any(table[name].notna())]
    names = {**MEASURES, "novelty_novel_fraction": "novel", _NULL: "novel, null"}
    rows = [
        {
            "LM": f"{row['model']} L{row['layer']}",
            "k": str(row["k"]),
            "arm": arms.display(row["arm"]),
            "d": whole(row["d"]),
            **{names[name]: pm(row[name], row[f"{name}_half_interval"]) for name in shown},
        }
        for row in dicts(table)
    ]
    note = "Mean with 95 % t interval over seeds; novelty against the record's own reference run, beside its null."
    return latex_table(pd.DataFrame(rows), note)
