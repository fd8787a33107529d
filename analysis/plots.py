"""Figures. Colours are Okabe and Ito's, which colour-blind readers can tell apart; lines are labelled directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis.frontier import REFERENCE_ARMS, X_AXES, Y_AXES

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = {"expander": ("-", "o"), "dense_matched": ("--", "s")}
_REFERENCE_STYLES = {
    "dense_tied": (0, (1, 1.5)),
    "dense_warmtied": (0, (5, 1.5, 1, 1.5)),
    "dense_randinit": (0, (3, 3)),
}
# The layer of each LM in the paper's first table; its other layers are in published.csv.
_PAPER_LAYERS = {"pythia-70m-deduped": 3, "pythia-160m-deduped": 8, "qwen2.5-3b": 12, "llama-3.2-1b": 12}
_PANEL = (8.2, 5.0)  # inches
_NAMES = {
    "expander": "expander",
    "dense_matched": "dense, same values",
    "dense_tied": "dense tied",
    "dense_warmtied": "dense own encoder",
    "dense_randinit": "dense random start",
}


@dataclass(frozen=True)
class _Label:
    text: str
    colour: str
    x: float  # where its line ends, in data units
    y: float


def frontier_figure(table: pd.DataFrame, x: str, y: str, published: pd.DataFrame | None = None) -> Figure:
    """One panel per (model, layer, n): `y` against storage, a line per arm and k, dense arms as levels.

    Args:
        table: from `analysis.frontier.frontier_table` with the same x and y.
        published: the paper's points (x = compression, y = ce_recovered only), drawn pale behind.
    """
    panels = groups(table, ["model", "layer", "n"])
    figure, axes = plt.subplots(
        1, len(panels), figsize=(_PANEL[0] * len(panels), _PANEL[1]), squeeze=False, layout="constrained"
    )
    for axis, ((model, layer, n), panel) in zip(axes[0], panels, strict=True):
        labels = _draw_arms(axis, panel, x)
        if published is not None:
            labels += _draw_published(axis, published)
        axis.set_title(f"{model}, after block {layer}, n = {n} latents", loc="left", fontsize=11)
        _style_axes(axis, x, y)
        _label_lines(axis, labels)
    return figure


def groups(table: pd.DataFrame, by: list[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """((values of `by`), rows) of each group, sorted."""
    return [(cast(tuple[Any, ...], key), rows) for key, rows in table.groupby(by, sort=True)]


def save_figure(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write `name`.png and .svg into `out`; return the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.png", out / f"{name}.svg"]
    for path in paths:
        figure.savefig(path, dpi=160)
    plt.close(figure)
    return paths


def _draw_arms(axis: Axes, panel: pd.DataFrame, x: str) -> list[_Label]:
    labels: list[_Label] = []
    colour_of = {k: COLOURS[i % len(COLOURS)] for i, k in enumerate(sorted(panel["k"].unique()))}
    for (arm, k), line in groups(panel, ["arm", "k"]):
        colour, name = colour_of[k], f"{_NAMES.get(arm, arm)}, k={k}"
        if arm in REFERENCE_ARMS:
            level = float(line["mean"].iloc[0])
            axis.axhline(level, color=colour, linestyle=_REFERENCE_STYLES[arm], linewidth=1.2, alpha=0.9)
            labels.append(_Label(name, colour, float("inf"), level))
            continue
        style, marker = _STYLES.get(arm, ("-.", "D"))
        line = line.sort_values("x")
        axis.errorbar(
            line["x"], line["mean"], yerr=line["half_interval"], color=colour, linestyle=style,
            marker=marker, markersize=5, linewidth=1.8, capsize=3, elinewidth=1,
            markerfacecolor=colour if arm == "expander" else "white",
        )  # fmt: skip
        end = line.iloc[-1]
        labels.append(_Label(name, colour, float(end["x"]), float(end["mean"])))
    return labels


def _draw_published(axis: Axes, published: pd.DataFrame) -> list[_Label]:
    labels: list[_Label] = []
    points = published.query("arm == 'expander_tied' and k == 64")
    for (model, layer), line in groups(points, ["model", "layer"]):
        if _PAPER_LAYERS.get(model) != layer:
            continue
        line = line.sort_values("compression")
        axis.plot(line["compression"], line["ce_recovered"], color="0.6", linewidth=1, marker=".", zorder=1)
        end = line.iloc[-1]
        labels.append(
            _Label(f"paper: {model} L{layer}, k=64", "0.45", float(end["compression"]), float(end["ce_recovered"]))
        )
    return labels


def _style_axes(axis: Axes, x: str, y: str) -> None:
    axis.set_xscale("log")
    axis.set_xlabel(X_AXES[x][1])
    axis.set_ylabel(Y_AXES[y])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(FuncFormatter(short))
    low, high = axis.get_xlim()
    ticks = [m * 10**e for e in range(-1, 12) for m in (1, 2, 5) if low <= m * 10**e <= high]
    if len(ticks) < 3:  # less than a decade: mark the points themselves
        ticks = sorted({round(float(x), 1) for line in axis.get_lines() for x in np.asarray(line.get_xdata()) if x > 1})
    if len(ticks) <= 12:
        axis.set_xticks(ticks)
    axis.set_xlim(low, high)
    axis.grid(axis="y", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def short(value: float, _: object) -> str:
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _label_lines(axis: Axes, labels: Sequence[_Label], size: float = 8.5) -> None:
    """Write each label in the right margin, as near to its line's end as leaves no two on top of each other."""
    low, high = axis.get_ylim()
    height_points = _PANEL[1] * 72 * 0.8  # what titles and labels leave of a panel
    gap = (high - low) * size * 1.3 / height_points
    ordered = sorted(labels, key=lambda label: label.y)
    places = spread([label.y for label in ordered], gap, low, high)
    right = axis.get_xlim()[1]
    for label, place in zip(ordered, places, strict=True):
        axis.annotate(
            label.text, xy=(min(label.x, right), label.y), xytext=(1.03, place), textcoords=axis.get_yaxis_transform(),
            xycoords="data", color=label.colour, fontsize=size, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "alpha": 0.5,
                        "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the ascending `wanted`, at least `gap` apart, inside low..high if they fit."""
    places = list(wanted)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    overflow = max(0.0, places[-1] - high) if places else 0.0
    if overflow:
        places[-1] -= overflow
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - gap)
    return places
