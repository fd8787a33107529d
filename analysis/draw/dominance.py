"""The figure of `analysis.tables.dominance`."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis import arms
from analysis.draw.shared import legend, panel_title, plain_axis
from analysis.frames import dicts, groups, only
from analysis.tables.dominance import BUDGETS
from sweep.store.sizes import human_size

_BUDGET_STYLES: dict[str, tuple[Any, str]] = {
    "one-shot expander": (":", "v"),
    "one-shot dense": ("--", "s"),
    "unlimited": ("-", "o"),
}


_READ = (
    "in a cell: the winner, its size, how it is read, its CE recovered; then the best of the other kind (dense or"
    " sparse) minus the winner, same seeds, ±95 %"
)


def dominance_figure(table: pd.DataFrame) -> Figure:
    """Of one (model, layer, n), per k: above, the most CE recovered against stored bytes, a line per budget of
    multiply-adds; below, who gets there: a row per budget, a cell per level, in the winner's colour, with how it is
    read and what the best of the other kind (sparse or dense) loses; PCA, never a winner, in a row of its own.

    Args:
        table: from `analysis.tables.dominance.dominance_table`, of one (model, layer, n).
    """
    panels = groups(table, ["model", "layer", "n", "k"])
    levels = sorted(table["level"].unique())
    width = max(9.0, 1.45 * len(levels)) + 2.4
    figure, axes = plt.subplots(
        2 * len(panels), 1, figsize=(width, 7.0 * len(panels)), squeeze=False, layout="constrained",
        height_ratios=[1, 1.2] * len(panels),
    )  # fmt: skip
    for i, ((model, layer, n, k), panel) in enumerate(panels):
        above, below = axes[2 * i, 0], axes[2 * i + 1, 0]
        _draw_best(above, panel, levels)
        _draw_winners(below, panel, levels)
        above.set_title(panel_title((model, layer, n), k), loc="left", fontsize=11)
        for axis in (above, below):
            axis.set_xlim(-0.5, len(levels) - 0.5)
            axis.set_xticks(range(len(levels)), [human_size(level) for level in levels])
        below.set_xlabel(f"stored bytes at most (size of sae.safetensors)\n{_READ}")
    handles = [Line2D([], [], color="0.25", linestyle=line, marker=marker, markerfacecolor="0.25", label=budget)
               for budget, (line, marker) in _BUDGET_STYLES.items()]  # fmt: skip
    if any(table["pca_mean"].notna()):
        handles.append(Line2D([], [], color=arms.colour("pca"), linewidth=2, label="PCA (not sparse)"))
    legend(figure, [*handles, *_arm_patches(table)])
    return figure


def _arm_patches(table: pd.DataFrame) -> list[Patch]:
    """One per colour: rounded variants have that of their arm."""
    labels = arms.in_order(map(arms.unrounded, table["winner"]))
    return [Patch(color=arms.colour(arm), label=arms.display(arm)) for arm in labels]


def _draw_best(axis: Axes, panel: pd.DataFrame, levels: list[int]) -> None:
    place = {level: i for i, level in enumerate(levels)}
    for budget, (line, marker) in _BUDGET_STYLES.items():
        rows = only(panel, budget=budget).sort_values("level")
        at = [place[level] for level in rows["level"]]
        axis.plot(at, rows["winner_mean"], color="0.45", linestyle=line, linewidth=1.3, zorder=1)
        for x, row in zip(at, dicts(rows), strict=True):
            axis.errorbar(
                x, row["winner_mean"], yerr=row["winner_half_interval"], color=arms.colour(row["winner"]),
                marker=marker, markersize=7, capsize=3, linestyle="none",
            )  # fmt: skip
    pca = panel.drop_duplicates("level").sort_values("level").dropna(subset=["pca_mean"])
    axis.plot(
        [place[level] for level in pca["level"]], pca["pca_mean"], color=arms.colour("pca"), linewidth=2, zorder=0
    )
    axis.set_ylabel("cross-entropy recovered")
    least = min(panel["winner_mean"])
    axis.set_ylim(bottom=min(least - 0.05, 0.98 * least))  # PCA may start far below
    plain_axis(axis)


def _draw_winners(axis: Axes, panel: pd.DataFrame, levels: list[int]) -> None:
    place = {level: i for i, level in enumerate(levels)}
    for row in dicts(panel):
        _draw_cell(axis, place[row["level"]], BUDGETS.index(row["budget"]), arms.colour(row["winner"]), _cell_text(row))
    of_pca = panel.drop_duplicates("level").dropna(subset=["pca_mean"])
    for row in dicts(of_pca):
        text = f"n' = {row['pca_n_latents']:.0f}\n{row['pca_mean']:.3f}"
        _draw_cell(axis, place[row["level"]], len(BUDGETS), arms.colour("pca"), text, height=0.5)
    rows = [budget.replace(" ", "\n") for budget in BUDGETS]
    axis.set_yticks(range(len(rows)), rows)
    if len(of_pca):
        axis.set_yticks([*range(len(rows)), len(rows) - 0.22], [*rows, "PCA"])
    axis.set_ylim(len(BUDGETS) - (0.5 if of_pca.empty else -0.1), -0.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _draw_cell(axis: Axes, x: int, y: int, fill: str, text: str, height: float = 0.92) -> None:
    top = y - 0.46
    axis.add_patch(Rectangle((x - 0.48, top), 0.96, height, color=fill, linewidth=0))
    ink = "white" if float(np.dot(to_rgb(fill), (0.299, 0.587, 0.114))) < 0.58 else "black"
    axis.text(x, top + height / 2, text, ha="center", va="center", fontsize=7, color=ink, linespacing=1.25)


def _cell_text(row: dict[str, Any]) -> str:
    sparse = arms.base(row["winner"]) in arms.SPARSE
    size = f"d = {row['winner_d']:.0f}" if sparse else f"n' = {row['winner_n_latents']}"
    lines = [_short_name(row["winner"]), size, f"by {_reading(row)}", f"{row['winner_mean']:.3f}"]
    difference, half = (row.get(f"other_kind_difference{part}", np.nan) for part in ("", "_half_interval"))
    if difference == difference:
        interval = f"±{half:.3f}" if half == half else ""
        lines.append(f"{'dense' if sparse else 'sparse'} {-difference:+.3f}{interval}")
    return "\n".join(lines)


def _short_name(label: str) -> str:
    arm = arms.parse(label)
    name = arm.base.replace("dense_matched", "dense_m.").replace("_parameters", "_par").replace("_", " ")
    return name + (f" {arm.bits}-bit" if arm.bits else "")


def _reading(row: dict[str, Any]) -> str:
    """How its codes are read; of a dictionary trained by pursuit also that."""
    pursuit, reading = arms.parse(row["winner"]).pursuit, row["winner_inference"]
    if pursuit is None:
        return reading
    return f"{pursuit} (trained)" if reading == "encoder" else f"{reading}\n({pursuit}-trained)"
