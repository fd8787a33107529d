"""The figures of `analysis.tables.pursuits`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis import arms
from analysis.draw.shared import COLOURS, panel_title, plain_axis, short
from analysis.frames import groups, only

_INFERENCES = ("encoder", "topk", "refit", "gomp16", "gomp4", "mp", "mp_refit", "omp", "niht", "cosamp")
_MARKERS: dict[str, str] = dict(zip(_INFERENCES, "osP*XvDd<>", strict=True))
_RATIOS = {"r_id": "$R_{id}(k) = 2\\beta^2 e(2k)$", "r_omp": "$R_{omp}(k) = \\beta^2 e(k+1)(2k+1)$"}
_MASKS = ("dense", "clustered", "expander")  # drawn from right to left
_PUBLISHED_RECOVERY = {64: (0.99, 1.00), 128: (0.14, 0.41)}  # paper: OMP, noiseless, m=512, n=4096


def amortisation_figure(table: pd.DataFrame) -> Figure:
    """Per (model, layer, n, k) two panels: CE recovered against compression, the gain from the run's own encoder to the
    best reading drawn as a bar; and CE recovered against multiply-adds a token."""
    cells = groups(drawn(table), ["model", "layer", "n", "k"])
    figure, axes = plt.subplots(len(cells), 2, figsize=(14, 5.2 * len(cells)), squeeze=False, layout="constrained")
    for (left, right), ((model, layer, n, k), rows) in zip(axes, cells, strict=True):
        for (arm,), of_arm in groups(rows, ["arm"]):
            _gains(left, of_arm, arms.colour(arm))
            _costs(right, of_arm, arms.colour(arm))
        left.set_title(f"{model}, after block {layer}, n = {n}, k = {k}", loc="left", fontsize=11)
        _axis(left, "compression: fewer decoder values than dense at the same n (times)")
        left.set_ylabel("cross-entropy recovered")
        _axis(right, "multiply-adds to find one token's codes")
        right.set_title("the same against the cost of inference", loc="left", fontsize=11)
        _legends(left, right, _named_colours(rows), _used(rows))
    return figure


def _gains(axis: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Own encoder hollow, best other reading solid, the gain between them a bar."""
    own = only(rows, inference="encoder").sort_values("decoder_compression")
    best = rows.loc[rows.groupby("decoder_compression")["mean"].idxmax()].sort_values("decoder_compression")
    axis.vlines(own["decoder_compression"], own["mean"], best["mean"], color=colour, linewidth=3, alpha=0.25)
    for line, face in ((own, "white"), (best, colour)):
        axis.errorbar(
            line["decoder_compression"], line["mean"], yerr=line["half_interval"], color=colour, capsize=2, marker="o",
            markersize=5, markerfacecolor=face, linewidth=1.4, linestyle="-" if face == "white" else ":", elinewidth=1,
        )  # fmt: skip


def _costs(axis: Axes, rows: pd.DataFrame, colour: str) -> None:
    """A line per inference over the arm's degrees."""
    for (inference,), line in groups(rows, ["inference"]):
        line = line.sort_values("multiply_adds")
        marker = _MARKERS.get(inference, "h")
        axis.plot(line["multiply_adds"], line["mean"], color=colour, marker=marker, markersize=6, linewidth=0.7)


def throughput_figure(table: pd.DataFrame) -> Figure:
    """Tokens a second against relative error: a panel per (model, layer, n, k), a colour per arm, a line per way of
    reading codes over the arm's sizes."""
    panels = groups(drawn(table), ["model", "layer", "n", "k"])
    columns = min(2, len(panels))
    size = (6.2 * columns + 2.4, 4.4 * -(-len(panels) // columns) + 0.3)
    figure, axes = plt.subplots(-(-len(panels) // columns), columns, figsize=size, squeeze=False, layout="constrained")
    for axis, (key, rows) in zip(axes.flat, panels, strict=False):
        for (arm, inference), line in groups(rows, ["arm", "inference"]):
            line, marker = line.sort_values("mean"), _MARKERS.get(inference, "h")
            axis.plot(line["mean"], line["tokens_per_second"], color=arms.colour(arm), marker=marker, linewidth=0.7)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(short))
        axis.set_title(panel_title(key[:3], key[3]), loc="left", fontsize=10)
        axis.set_xlabel("relative error")
        axis.set_ylabel(f"tokens a second, {table['threads'].iloc[0]} thread(s)")
        plain_axis(axis)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    _legends(axes[0, -1], axes[0, -1], _named_colours(table), _used(table))
    return figure


def _named_colours(table: pd.DataFrame) -> dict[str, str]:
    return {arms.display(arm): arms.colour(arm) for arm in arms.in_order(table["arm"])}


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """Without one-shot readings of dictionaries trained by pursuit: so bad that they would set every scale."""
    by_pursuit = table["arm"].str.contains("+", regex=False)
    return cast(pd.DataFrame, table[~(by_pursuit & (table["inference"] == "topk"))])


def certificates_figure(table: pd.DataFrame) -> Figure:
    """Per (model, layer, n, arm, k) R_id and R_omp against k', a line per degree; below 1 would be a certificate."""
    cells = groups(table, ["model", "layer", "n", "arm", "k"])
    figure, axes = plt.subplots(len(cells), 2, figsize=(12, 4.4 * len(cells)), squeeze=False, layout="constrained")
    for pair, ((model, layer, n, arm, k), rows) in zip(axes, cells, strict=True):
        colour_of = {d: COLOURS[i % len(COLOURS)] for i, d in enumerate(sorted(rows["degree"].unique()))}
        for axis, (ratio, formula) in zip(pair, _RATIOS.items(), strict=True):
            for (degree, sets), line in groups(only(rows, ratio=ratio), ["degree", "sets"]):
                line = line.sort_values("at")
                style = "solid" if sets == "observed" else "dashed"
                axis.plot(line["at"], line["mean"], color=colour_of[degree], linestyle=style, marker=".", linewidth=1.4)
            axis.axhline(1, color="0.3", linewidth=1)
            axis.annotate("certified only below 1", (1, 1), xytext=(2, -10), textcoords="offset points", fontsize=8)
            least = min(rows["mean"].tolist())
            axis.set_yscale("log" if least > 0 else "symlog")
            axis.set_ylim(bottom=0.5 if least > 0.5 else None)
            axis.set_ylabel(formula + ", at least")
            _axis(axis, "k")
        pair[0].set_title(
            f"{model}, after block {layer}, n = {n}, {arms.display(arm)} trained at k = {k}", loc="left", fontsize=11
        )
        handles = [Line2D([], [], color=colour, label=f"d = {degree}") for degree, colour in colour_of.items()]
        handles += [Line2D([], [], color="0.4", label="active together")]
        handles += [Line2D([], [], color="0.4", linestyle="--", label="random")]
        pair[1].legend(handles=handles, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def recovery_figure(table: pd.DataFrame) -> Figure:
    """Phase transitions against k: the share of trials recovered exactly, and of planted atoms found; a column per
    dictionary, a row per noise."""
    dictionaries = groups(table, ["d_in", "n", "values", "codes", "mask", "d"])
    dictionaries.sort(key=lambda of: (*of[0][:4], -_MASKS.index(of[0][4]) if of[0][4] in _MASKS else 1, of[0][5]))
    noises = sorted(table["noise"].unique())
    size = (2.9 * len(dictionaries) + 1.5, 2.7 * len(noises) + 0.6)
    figure, axes = plt.subplots(
        len(noises), len(dictionaries), figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    algorithms = list(dict.fromkeys(table["algorithm"]))
    colour_of = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(algorithms)}
    for column, ((d_in, n, values, codes, mask, d), rows) in zip(axes.T, dictionaries, strict=True):
        for axis, noise in zip(column, noises, strict=True):
            if noise == 0 and (d_in, n) == (512, 4096) and mask != "clustered":
                for k, (low, high) in _PUBLISHED_RECOVERY.items():
                    axis.vlines(k, low - 0.01, high + 0.01, color="0.7", linewidth=7, zorder=0)
            for (algorithm,), line in groups(only(rows, noise=noise), ["algorithm"]):
                line = line.sort_values("k")
                axis.plot(line["k"], line["exact_recovery"], color=colour_of[algorithm], marker=".", linewidth=1.3)
                axis.plot(line["k"], line["support_recovery"], color=colour_of[algorithm], linestyle=":", linewidth=0.9)
            plain_axis(axis)
        name = mask if mask == "dense" else f"{mask} d={d}"
        column[0].set_title(f"{name}\nm={d_in} n={n}, {values}, codes {codes}", fontsize=8, loc="left")
        column[-1].set_xlabel("k planted atoms")
    for row, noise in zip(axes, noises, strict=True):
        row[0].set_ylabel(f"recovery, noise {noise:g}")
    handles = [Line2D([], [], color=colour, marker=".", label=name) for name, colour in colour_of.items()]
    handles += [Line2D([], [], color="0.4", label="trials with all atoms right")]
    handles += [Line2D([], [], color="0.4", linestyle=":", label="share of atoms found")]
    handles += [Line2D([], [], color="0.7", linewidth=7, label="published, OMP")]
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside right center")
    return figure


def _used(rows: pd.DataFrame) -> list[str]:
    return [name for name in [*_INFERENCES, *sorted(set(rows["inference"]) - set(_INFERENCES))]
            if name in set(rows["inference"])]  # fmt: skip


def _legends(first: Axes, second: Axes, colours: dict[str, str], inferences: Sequence[str]) -> None:
    """Which colour is which arm, and which marker which inference, in the right margin of `second`."""
    handles = [Line2D([], [], color=colour, linewidth=3, label=name) for name, colour in colours.items()]
    if first is not second:
        handles += [Line2D([], [], color="0.4", marker="o", markerfacecolor="white", label="left: own encoder"),
                    Line2D([], [], color="0.4", marker="o", linestyle=":", label="left: best reading")]  # fmt: skip
    handles += [Line2D([], [], color="0.3", marker=_MARKERS.get(name, "h"), linestyle="none", label=name)
                for name in inferences]  # fmt: skip
    second.legend(handles=handles, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _axis(axis: Axes, label: str) -> None:
    axis.set_xscale("log")
    axis.set_xlabel(label)
    axis.xaxis.set_major_formatter(FuncFormatter(short))
    axis.xaxis.set_minor_formatter(NullFormatter())
    plain_axis(axis)
