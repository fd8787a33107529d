"""Parts that all figures share: styles, legends, axes and files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple, cast

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis import arms

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")  # Okabe and Ito
WHAT = "what"  # the column of a table that says which measure a row is of
LABELS = {
    "ce_recovered": "cross-entropy recovered",
    "dead_fraction": "dead latents (share)",
    "fvu": "fraction of variance unexplained",
    "relative_error": "relative error",
    "difference": "CE recovered, minus the\nexpander's (same seed)",
}
_DPI = 130
_LEGEND_WIDTH = 34  # characters
_MOST_LOOKS = 14  # in a legend, of arms in all their forms
_LEGEND_SIZE, _LEGEND_INCHES = 8.5, 2.6  # of its letters, in points; of a further column
_SMALL = 0.02  # a difference in CE recovered: scales are linear up to here
D_LABEL = "d: non-zero values per atom"


class Style(NamedTuple):
    """The look of a line, and its name in the legend."""

    label: str
    colour: str
    marker: Any = "o"
    line: Any = "-"
    hollow: bool = False  # markers are white inside

    @property
    def face(self) -> str:
        """The colour inside a marker."""
        return "white" if self.hollow else self.colour

    @property
    def look(self) -> dict[str, Any]:
        """The line and its markers as matplotlib's arguments."""
        markers = {"marker": self.marker, "markersize": 5, "markerfacecolor": self.face}
        return {"color": self.colour, "linestyle": self.line, "linewidth": 1.5, **markers}

    def handle(self) -> Line2D:
        """Return the entry of a legend."""
        return Line2D([], [], label=self.label, **{**self.look, "markersize": 6})


def arm_style(label: str) -> Style:
    """Return an arm's own style: dense arms are dashed, PCA is dotted, and arms trained by pursuit are hollow."""
    arm = arms.parse(label)
    line = "--" if arm.base in (*arms.DENSE, *arms.MATCHED, *arms.RIVALS) else ":" if arm.base == arms.PCA else "-"
    hollow = arm.pursuit not in (None, arms.BATCH_TOPK)
    return Style(arms.display(label), arms.colour(label), arms.marker(label), line, hollow)


def arm_handles(labels: Iterable[str], line: Any = None) -> list[Artist]:
    """Return a legend's entries for arms, one for each look: arms that differ in their values' bits alone look alike.

    Of very many looks only those of the base arms are named, and what hollow and pale marks mean.

    Args:
        line: the kind of line in the legend; None for each arm's own.
    """
    looks: dict[str, set[float]] = {}
    for label in arms.in_order(labels):
        looks.setdefault(arms.unrounded(label), set()).add(arms.parse(label).bits or arms.FLOAT_BITS)
    if len(looks) > _MOST_LOOKS:
        return _handles_of_bases(looks, line)
    entries = []
    for arm, bits in looks.items():
        numbers = ", ".join(f"{number:g}" for number in sorted(bits, reverse=True))
        few = f" ({numbers} bit{'s' * (numbers != '1')})" if bits != {arms.FLOAT_BITS} else ""
        entries.append(_handle(arm, arms.display(arm) + few, line))
    return entries


def _handles_of_bases(labels: Iterable[str], line: Any) -> list[Artist]:
    entries = [_handle(arm, arms.display(arm), line) for arm in arms.in_order(map(arms.base, labels))]
    notes = {"white": "hollow: trained by a pursuit", "0.35": "other shades: BatchTopK,\nnested prefixes"}
    for face, words in notes.items():
        look: dict[str, Any] = {"color": "0.35", "markerfacecolor": face, "linestyle": "none"}
        entries.append(Line2D([], [], marker="o", label=words, **look))
    return entries


def _handle(arm: str, label: str, line: Any) -> Artist:
    style = arm_style(arm)
    return style._replace(label=label, line=style.line if line is None else line).handle()


def zero_line(axis: Axes, differences: pd.Series) -> None:
    """Draw a line at 0; where some differences are large, set a scale that still tells the small ones apart."""
    axis.axhline(0, color="0.3", linewidth=1)
    if max(abs(differences)) > 4 * _SMALL:
        axis.set_yscale("symlog", linthresh=_SMALL, linscale=1.2)
        steps = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
        low, high = 1.4 * min(differences) - 0.01, 1.4 * max(differences) + 0.01
        axis.set_yticks([tick for tick in (*(-step for step in steps), 0, *steps) if low <= tick <= high])
        axis.set_ylim(low, high)
        axis.yaxis.set_major_formatter("{x:+g}")


def draw_line(axis: Axes, line: pd.DataFrame, x: str, style: Style, band: bool = False) -> None:
    """Draw one line of means over the column `x`, with bars or a band for its half intervals, where it has any."""
    if band:
        axis.plot(line[x], line["mean"], color=style.colour, linestyle=style.line, linewidth=1.4)
        low, high = line["mean"] - line["half_interval"], line["mean"] + line["half_interval"]
        axis.fill_between(line[x], low, high, color=style.colour, alpha=0.15, linewidth=0)
        return
    axis.errorbar(line[x], line["mean"], yerr=line["half_interval"], capsize=2.5, elinewidth=1, **style.look)


def panel_title(panel: Sequence[object], k: object = None) -> str:
    """Return the title of a panel.

    Args:
        panel: model, layer, n; the layer is empty in a figure that has it on an axis.
        k: None in a figure that has it on an axis.
    """
    model, layer, n = panel
    after = f", after block {layer}" if layer != "" else ""
    return f"{model}{after}, n = {n}" + ("" if k is None else f", k = {k}")


def legend(figure: Figure, handles: Iterable[Artist]) -> None:
    """Put one legend for all panels into the right margin; long names take several lines.

    It has as many columns as the figure's height asks for, and the figure becomes wider by all but the first.
    """
    entries = list(handles)
    names = [str(entry.get_label()) for entry in entries]
    labels = [name if "\n" in name else fill(name, _LEGEND_WIDTH) for name in names]
    width, height = figure.get_size_inches()
    # matplotlib's spacing of lines and of entries
    inches = [(1.2 * (label.count("\n") + 1) + 0.5) * _LEGEND_SIZE / 72 for label in labels]
    columns = next((count for count in range(1, len(labels)) if _tallest(inches, count) <= height), max(1, len(labels)))
    figure.set_size_inches(width + (columns - 1) * _LEGEND_INCHES, height)
    figure.legend(entries, labels, fontsize=_LEGEND_SIZE, frameon=False, loc="outside right upper", ncols=columns)


def _tallest(heights: Sequence[float], columns: int) -> float:
    """Return the height of the tallest column of a legend, whose columns have as many entries or one more at first."""
    each, more = divmod(len(heights), columns)
    ends = list(accumulate(each + (column < more) for column in range(columns)))
    return max(sum(heights[start:end]) for start, end in zip([0, *ends], ends, strict=False))


def log_ticks(axis: Axes, values: pd.Series) -> None:
    """Make the x axis logarithmic, with a tick at each value; of many, at 1, 2 and 5 times powers of ten instead.

    Where none of these lies between the values, the largest value has a tick.
    """
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(FuncFormatter(short))
    ticks = sorted({float(value) for value in values})
    if not far_apart(ticks):
        low, high = axis.get_xlim()
        largest = ticks[-1:]
        ticks = [m * 10.0**e for e in range(-3, 13) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        ticks = ticks if len(ticks) <= 7 else [tick for tick in ticks if f"{tick:e}"[0] == "1"]
        ticks = ticks or largest
        axis.set_xlim(low, high)
    if ticks:
        axis.set_xticks(ticks)
        axis.set_xticks([], minor=True)


def log_y_ticks(axis: Axes) -> None:
    """Make the y axis logarithmic, with ticks at 1, 2 and 5 times powers of ten: less than a decade has some too."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(short))
    axis.yaxis.set_minor_locator(NullLocator())


def storage_axis(axis: Axes, values: pd.Series) -> None:
    """Make the x axis logarithmic, as `log_ticks` does, with a place for 0: runs that store no learned value at all."""
    positive = cast(pd.Series, values[values > 0])
    if len(positive) == len(values):
        log_ticks(axis, values)
    elif len(positive):
        low, high = float(positive.min()), float(positive.max())
        log_ticks(axis, positive)
        ticks = [float(tick) for tick in axis.get_xticks() if low <= tick <= high]
        axis.set_xscale("symlog", linthresh=low / 2, linscale=0.3)
        axis.set_xticks([0.0, *ticks])
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter(FuncFormatter(short))
        axis.set_xlim(-0.25 * low, 1.4 * high)


def far_apart(ticks: Sequence[float], log: bool = True) -> bool:
    """Return whether labels at these ascending places have room: at most 8, no two within 9 % of their whole range."""
    if not 0 < len(ticks) <= 8 or (log and ticks[0] <= 0):
        return False
    places = [math.log(tick) if log else tick for tick in ticks]
    return all(b - a > 0.09 * (places[-1] - places[0]) for a, b in zip(places, places[1:], strict=False))


def plain_axis(axis: Axes) -> None:
    """Leave of the frame only the left and lower side, and of the grid only pale horizontal lines."""
    axis.grid(axis="y", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def short(value: float, _: object = None) -> str:
    """Return the number with three significant digits, in thousands and so on where it is large: 1500000 -> 1.5M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def save_figure(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write `name`.png and .svg into `out`; return the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.png", out / f"{name}.svg"]
    # `savefig` would write the same files, but it draws every figure twice; here it is laid out and drawn once a file.
    figure.set_dpi(_DPI)
    FigureCanvasAgg(figure).print_png(paths[0])
    figure.set_layout_engine("none")
    FigureCanvasSVG(figure).print_svg(paths[1], metadata={"Date": None})
    return paths
