"""The figures of how pursuit reads codes, drawn from `analysis.tables.pursuits`."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import arms
from analysis.draw.floor import say_missing
from analysis.draw.panels import hide_unused, subplots
from analysis.draw.shared import COLOURS, log_ticks, log_y_ticks, panel_title, plain_axis
from analysis.frames import column, groups, only, where

_INFERENCES = ("encoder", "topk", "refit", "gomp16", "gomp4", "mp", "mp_refit", "omp", "niht", "cosamp")
_MARKERS: dict[str, str] = dict(zip(_INFERENCES, "osP*XvDd<>", strict=True))
_RATIOS = {"r_id": "$R_{id}(k) = 2\\beta^2 e(2k)$", "r_omp": "$R_{omp}(k) = \\beta^2 e(k+1)(2k+1)$"}
_MASKS = ("dense", "clustered", "expander")  # drawn from right to left
_PUBLISHED_RECOVERY = {64: (0.99, 1.00), 128: (0.14, 0.41)}  # paper: OMP, noiseless, m=512, n=4096
_CELL = ["model", "layer", "n", "k"]


def amortisation_figure(table: pd.DataFrame) -> Figure:
    """Draw two panels per (model, layer, n, k): CE recovered against compression, and against multiply-adds a token.

    In the left panel the gain from the run's own encoder to the best reading is a bar.
    """
    cells = groups(_without_spoiled_readings(table), _CELL)
    figure, axes = subplots(len(cells), 2, (11.6, 3.8 * len(cells)))
    for (left, right), ((model, layer, n, k), rows) in zip(axes, cells, strict=True):
        for (arm,), of_arm in groups(rows, ["arm"]):
            _draw_gains(left, of_arm, arms.colour(arm))
            _draw_costs(right, of_arm, arms.colour(arm))
        left.set_title(panel_title((model, layer, n), k), loc="left", fontsize=10)
        _log_x_axis(left, "compression: fewer decoder values than dense at the same n (times)")
        if not any(rows["floor"].notna()):
            say_missing(left)
        left.set_ylabel("cross-entropy recovered")
        _log_x_axis(right, "multiply-adds to find one token's codes")
        right.set_title("the same against the cost of inference", loc="left", fontsize=10)
        own = Line2D([], [], color="0.4", marker="o", markerfacecolor="white", label="left: own encoder")
        best = Line2D([], [], color="0.4", marker="o", linestyle=":", label="left: best reading")
        _legend_beside(right, [*_arm_handles(rows), own, best, *_reading_handles(rows)])
    return figure


def _draw_gains(axis: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Draw the own encoder hollow, the best reading solid, and the gain between them as a bar.

    A size that was read in one way alone has no best reading, as a line through all of them would compare ways.
    """
    own = only(rows, inference="encoder").sort_values("decoder_compression")
    best = rows.loc[rows.groupby("decoder_compression")["mean"].idxmax()].sort_values("decoder_compression")
    axis.vlines(own["decoder_compression"], own["mean"], best["mean"], color=colour, linewidth=3, alpha=0.25)
    several = rows.groupby("decoder_compression")["inference"].nunique() > 1
    best = where(best, best["decoder_compression"].map(several))
    look: dict[str, Any] = {"color": colour, "capsize": 2, "marker": "o", "markersize": 5}
    look |= {"linewidth": 1.4, "elinewidth": 1}
    for line, face, style in ((own, "white", "-"), (best, colour, ":")):
        if line.empty:
            continue
        x, mean, half = (column(line, name) for name in ("decoder_compression", "mean", "half_interval"))
        axis.errorbar(x, mean, yerr=half, markerfacecolor=face, linestyle=style, **look)


def _draw_costs(axis: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Draw a line per inference over the arm's degrees."""
    for (inference,), line in groups(rows, ["inference"]):
        line = line.sort_values("multiply_adds")
        marker = _MARKERS.get(inference, "h")
        axis.plot(line["multiply_adds"], line["mean"], color=colour, marker=marker, markersize=6, linewidth=0.7)


def throughput_figure(table: pd.DataFrame) -> Figure:
    """Draw tokens a second against relative error, a panel per (model, layer, n, k).

    There is a colour per arm and a line per way of reading codes, over the arm's sizes.
    """
    panels = groups(_without_spoiled_readings(table), _CELL)
    columns = min(2, len(panels))
    rows_of_panels = -(-len(panels) // columns)
    figure, axes = subplots(rows_of_panels, columns, (4.4 * columns + 2.4, 3.6 * rows_of_panels + 0.3))
    for axis, (key, rows) in zip(axes.flat, panels, strict=False):
        for (arm, inference), line in groups(rows, ["arm", "inference"]):
            line, marker = line.sort_values("mean"), _MARKERS.get(inference, "h")
            axis.plot(line["mean"], line["tokens_per_second"], color=arms.colour(arm), marker=marker, linewidth=0.7)
        log_y_ticks(axis)
        axis.set_title(panel_title(key[:3], key[3]), loc="left", fontsize=10)
        axis.set_xlabel("relative error")
        if not any(rows["floor"].notna()):
            say_missing(axis)
        axis.set_ylabel(f"tokens a second, {table['threads'].iloc[0]} thread(s)")
        plain_axis(axis)
    hide_unused(axes, len(panels))
    _legend_beside(axes[0, -1], [*_arm_handles(table), *_reading_handles(table)])
    return figure


def _without_spoiled_readings(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out one-shot readings of dictionaries trained by pursuit, so bad that they would set every scale."""
    by_pursuit = table["arm"].str.contains("+", regex=False)
    return where(table, ~(by_pursuit & (table["inference"] == "topk")))


def certificates_figure(table: pd.DataFrame) -> Figure:
    """Draw R_id and R_omp against k', two panels per (model, layer, n, arm, k) and a line per degree.

    k' is the sparsity of the codes that a ratio is about. A ratio below 1 would be a certificate.
    """
    cells = groups(table, ["model", "layer", "n", "arm", "k"])
    figure, axes = subplots(len(cells), 2, (10.6, 3.4 * len(cells)))
    for pair, ((model, layer, n, arm, k), rows) in zip(axes, cells, strict=True):
        colour_of = _colours(sorted(rows["degree"].unique()))
        least = min(column(rows, "mean").tolist())
        for axis, (ratio, formula) in zip(pair, _RATIOS.items(), strict=True):
            for (degree, sets), line in groups(only(rows, ratio=ratio), ["degree", "sets"]):
                line = line.sort_values("at")
                style = "solid" if sets == "observed" else "dashed"
                axis.plot(line["at"], line["mean"], color=colour_of[degree], linestyle=style, marker=".", linewidth=1.4)
            axis.axhline(1, color="0.3", linewidth=1)
            axis.annotate("certified only below 1", (1, 1), xytext=(2, -10), textcoords="offset points", fontsize=8)
            axis.set_yscale("log" if least > 0 else "symlog")
            axis.set_ylim(bottom=0.5 if least > 0.5 else None)
            axis.set_ylabel(formula + ", at least")
            _log_x_axis(axis, "k")
        title = f"{model}, after block {layer}, n = {n}, {arms.display(arm)} trained at k = {k}"
        pair[0].set_title(title, loc="left", fontsize=10)
        handles = [Line2D([], [], color=colour, label=f"d = {degree}") for degree, colour in colour_of.items()]
        handles += [Line2D([], [], color="0.4", label="active together")]
        handles += [Line2D([], [], color="0.4", linestyle="--", label="random")]
        _legend_beside(pair[1], handles)
    return figure


def recovery_figure(table: pd.DataFrame) -> Figure:
    """Draw phase transitions against k: the share of trials recovered exactly, and of planted atoms found.

    There is a panel per dictionary.

    Args:
        table: from `analysis.tables.pursuits.recovery_table`, the rows of one noise.
    """
    dictionaries = sorted(groups(table, ["d_in", "n", "values", "codes", "mask", "d"]), key=_dictionary_order)
    noise = table["noise"].iloc[0]
    columns = min(4, len(dictionaries))
    lines = -(-len(dictionaries) // columns)
    figure, axes = subplots(lines, columns, (2.6 * columns + 1.9, 2.5 * lines + 0.4), sharex=True, sharey=True)
    colour_of = _colours(list(dict.fromkeys(table["algorithm"])))
    for axis, ((d_in, n, values, codes, mask, d), rows) in zip(axes.flat, dictionaries, strict=False):
        if noise == 0 and (d_in, n) == (512, 4096) and mask != "clustered":
            for k, (low, high) in _PUBLISHED_RECOVERY.items():
                axis.vlines(k, low - 0.01, high + 0.01, color="0.7", linewidth=7, zorder=0)
        _draw_recovery(axis, rows, colour_of)
        name = mask if mask == "dense" else f"{mask} d={d}"
        axis.set_title(f"{name}\nm={d_in} n={n}, {values}, codes {codes}", fontsize=8, loc="left")
        axis.set_xlabel("k planted atoms")
    for row in axes:
        row[0].set_ylabel(f"recovery, noise {noise:g}")
    hide_unused(axes, len(dictionaries))
    handles = [Line2D([], [], color=colour, marker=".", label=name) for name, colour in colour_of.items()]
    handles += [Line2D([], [], color="0.4", label="trials with all atoms right")]
    handles += [Line2D([], [], color="0.4", linestyle=":", label="share of atoms found")]
    handles += [Line2D([], [], color="0.7", linewidth=7, label="published, OMP")]
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="outside right center")
    return figure


def _dictionary_order(dictionary: tuple[tuple[Any, ...], pd.DataFrame]) -> tuple[Any, ...]:
    """Sort by sizes, entries and codes, then by mask as _MASKS says, others last, then by d."""
    (*sizes_and_kinds, mask, d), _ = dictionary
    return (*sizes_and_kinds, -_MASKS.index(mask) if mask in _MASKS else 1, d)


def _draw_recovery(axis: Axes, rows: pd.DataFrame, colour_of: dict[Any, str]) -> None:
    for (algorithm,), line in groups(rows, ["algorithm"]):
        line = line.sort_values("k")
        axis.plot(line["k"], line["exact_recovery"], color=colour_of[algorithm], marker=".", linewidth=1.3)
        axis.plot(line["k"], line["support_recovery"], color=colour_of[algorithm], linestyle=":", linewidth=0.9)
    plain_axis(axis)


def _colours(values: Sequence[Any]) -> dict[Any, str]:
    return {value: COLOURS[i % len(COLOURS)] for i, value in enumerate(values)}


def _arm_handles(rows: pd.DataFrame) -> list[Artist]:
    """Return the entries of a legend that say which colour is which arm."""
    names = {arms.display(arm): arms.colour(arm) for arm in arms.in_order(rows["arm"])}
    return [Line2D([], [], color=colour, linewidth=3, label=fill(name, 30)) for name, colour in names.items()]


def _reading_handles(rows: pd.DataFrame) -> list[Artist]:
    """Return the entries of a legend that say which marker is which inference."""
    here = set(rows["inference"])
    names = [name for name in [*_INFERENCES, *sorted(here - set(_INFERENCES))] if name in here]
    look: dict[str, Any] = {"color": "0.3", "linestyle": "none"}
    return [Line2D([], [], marker=_MARKERS.get(name, "h"), label=name, **look) for name in names]


def _legend_beside(axis: Axes, handles: Sequence[Artist]) -> None:
    axis.legend(handles=list(handles), fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _log_x_axis(axis: Axes, label: str) -> None:
    drawn = [line for line in axis.lines if line.get_transform() is axis.transData]  # not those across the panel
    log_ticks(axis, pd.Series(np.concatenate([np.asarray(line.get_xydata())[:, 0] for line in drawn])))
    axis.set_xlabel(label)
    plain_axis(axis)
