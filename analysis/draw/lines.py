"""Panels of lines with intervals, which most figures are made of, with the floor and one legend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis import arms
from analysis.draw.floor import (
    COLOUR,
    FLOOR_ID,
    draw_floors,
    draw_own_floors,
    floor_handles,
    own_floor_handle,
    say_missing,
)
from analysis.draw.panels import panel_grid
from analysis.draw.shared import (
    LABELS,
    WHAT,
    Style,
    arm_style,
    draw_line,
    far_apart,
    legend,
    log_ticks,
    panel_title,
    plain_axis,
    short,
    zero_line,
)
from analysis.frames import column, dicts, groups, only, where
from analysis.tables.floor import MINUS_FROM
from analysis.tables.pairs import MODEL_LAYER_N

_STORAGE = ("artifact_bytes", "learned_decoder_values")  # x axes on which the floor is a level
_NEVER_NEGATIVE = ("dead_fraction", "fvu")  # though their intervals may be
_TITLE_WIDTH = 44  # characters


class _PanelRow(NamedTuple):
    """One row of panels in `lines_figure`: one measure of one (model, layer, n), with a panel for each k."""

    panel: tuple[Any, ...]  # model, layer, n
    what: str
    points: pd.DataFrame

    @property
    def ks(self) -> list[Any]:
        """The k of each panel, ascending."""
        return sorted(set(self.points["k"]))


def lines_figure(
    table: pd.DataFrame,
    x: str,
    x_label: str,
    styles: Callable[[dict[str, Any]], Style] = lambda row: arm_style(row["arm"]),
    line_by: Sequence[str] = ("arm",),
    titles: dict[str, str] | None = None,
    **look: Any,
) -> Figure:
    """Draw lines with 95 % intervals: per (model, layer, n) a row of panels for each measure, a column for each k.

    The floor is a grey line, or a level over axes of storage, where the table has the columns of
    `analysis.tables.floor.with_floor`, and with `marks` a point beside each; panels of differences have none.

    Args:
        table: model, layer, n, k, `what` (a measure, or a title of its own), the columns of `line_by`, x, mean and
            half_interval. Panels whose `what` starts with "difference" get a line at 0.
        styles: gives the look of a line from any of its rows.
        line_by: the columns whose values make a line; the first has the labels of arms.
        titles: labels of the y axes by `what`, beside those of LABELS.
        look: log_x, band, marks and floor_across, as `_Lines` has them.
    """
    lines = _Lines(x, styles, line_by, **look)
    rows = _panel_rows(table)
    grid = panel_grid([(place, k) for place, row in enumerate(rows) for k in row.ks])
    for place, row in enumerate(rows):
        for k in row.ks:
            axis = grid.axes[place, k]
            axis.set_title(_wrapped(panel_title(row.panel, k)), loc="left", fontsize=9)
            axis.set_xlabel(x_label)
            lines.draw(axis, only(row.points, k=k), row)
            if (place, k) in grid.leading:
                axis.set_ylabel(str({**LABELS, **(titles or {})}.get(row.what, row.what)), fontsize=9)
        if row.what in _NEVER_NEGATIVE:  # once all panels that share the axis are drawn, as it grows no more then
            low, high = grid.axes[place, row.ks[0]].get_ylim()
            grid.axes[place, row.ks[0]].set_ylim(bottom=max(low, -0.03 * high))
    legend(grid.figure, lines.handles(table))
    return grid.figure


def _wrapped(title: str) -> str:
    """Return a panel's title in lines that it has room for, broken between `n = 512` and `k = 8`, not within them."""
    return fill(title.replace(" = ", "\u00a0=\u00a0"), _TITLE_WIDTH).replace("\u00a0", " ")


@dataclass
class _Lines:
    """How the lines of a figure are drawn, and what of them its legend explains so far.

    Args:
        x, styles, line_by: as `lines_figure` has them.
        log_x: whether the x axis is logarithmic.
        band: draw the interval as a band, for many points a line.
        marks: the markers of points, where those of a line differ, by the table's column `mark`, in the legend's order.
        floor_across: draw the floor as one line though d changes along it (`draw_floors`).
    """

    x: str
    styles: Callable[[dict[str, Any]], Style]
    line_by: Sequence[str]
    log_x: bool = True
    band: bool = False
    marks: dict[str, Style] = field(default_factory=dict)
    floor_across: bool = False
    in_legend: dict[str, Style] = field(default_factory=dict)
    floors: set[str] = field(default_factory=set)  # the ways of reading whose floor is drawn
    own_floors: bool = False  # points have a floor beside each
    differences: bool = False  # the difference of a random dictionary is drawn

    def draw(self, axis: Axes, points: pd.DataFrame, row: _PanelRow) -> None:
        """Draw the lines of a panel of `row` and its floor, and scale it."""
        for _, line in groups(points, list(self.line_by)):
            style = self.styles(dicts(line)[0])
            style = style._replace(marker="") if self.band or self.marks else style
            self.in_legend.setdefault(style.label, style)
            draw_line(axis, line.sort_values(self.x), self.x, style, self.band)
            for (mark,), marked in groups(line, ["mark"]) if self.marks else ():
                axis.plot(marked[self.x], marked["mean"], **self.marks[mark]._replace(colour=style.colour).look)
        if "floor" in points:
            self._draw_floor(axis, points, row.what)
        _scale(axis, row, column(points, self.x), self.log_x)

    def _draw_floor(self, axis: Axes, points: pd.DataFrame, what: str) -> None:
        if what.startswith("difference"):
            self.differences |= _draw_differences(axis, points, self.x)
        elif self.marks:
            self.own_floors |= draw_own_floors(axis, points, self.x)
        else:
            level = self.x in _STORAGE
            self.floors |= draw_floors(axis, points, self.x, what, self._floor_marker, level, self.floor_across)

    @property
    def _floor_marker(self) -> str:
        return "" if self.band else "x"

    def handles(self, table: pd.DataFrame) -> list[Artist]:
        """Return the legend's entries, once all panels are drawn."""
        labels = _in_order_of_arms(self.in_legend, table[self.line_by[0]])
        handles: list[Artist] = [self.in_legend[label].handle() for label in labels]
        handles += floor_handles(self.floors, self._floor_marker)
        handles += [own_floor_handle()] * self.own_floors
        used = set(table["mark"]) if self.marks else set()
        handles += [look.handle() for mark, look in self.marks.items() if mark in used]
        if self.differences:
            label = "floor: the same with a random\ndictionary in place of the expander"
            handles.append(Line2D([], [], color=COLOUR, linestyle=":", label=label))
        return handles


def _draw_differences(axis: Axes, points: pd.DataFrame, x: str) -> bool:
    """Draw for each arm what a random dictionary has in place of the other; return whether one was measured."""
    known = where(points, points["floor"].notna())
    if known.empty and MINUS_FROM in points:
        say_missing(axis)
    for (arm,), line in groups(known, ["arm"]):
        line = line.sort_values(x)
        look: dict[str, Any] = {"color": COLOUR, "linestyle": ":", "linewidth": 1, "gid": FLOOR_ID, "zorder": 1.5}
        axis.plot(line[x], line["floor"], marker=arms.marker(arm), markersize=4, markerfacecolor="white", **look)
    return len(known) > 0


def _panel_rows(table: pd.DataFrame) -> list[_PanelRow]:
    """Return the rows of panels: measures in the order of the table, those that a (model, layer, n) has."""
    measures = list(dict.fromkeys(table[WHAT]))
    return [
        _PanelRow(panel, what, only(points, **{WHAT: what}))
        for panel, points in groups(table, MODEL_LAYER_N)
        for what in measures
        if what in set(points[WHAT])
    ]


def _scale(axis: Axes, row: _PanelRow, xs: pd.Series, log_x: bool) -> None:
    """Give a panel its limits and ticks, once its lines are drawn."""
    if row.what.startswith("difference"):
        zero_line(axis, column(row.points, "mean"))
    ticks = sorted(set(xs))
    if log_x:
        log_ticks(axis, xs)
    elif far_apart(ticks, log=False):
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    else:
        axis.xaxis.set_major_formatter(FuncFormatter(short))
    plain_axis(axis)


def _in_order_of_arms(labels: Iterable[str], drawn: Iterable[str]) -> list[str]:
    """Return the labels of a legend in the order of the arms drawn: a label starts with its arm's name."""
    names = [arms.display(arm) for arm in arms.in_order(drawn)]

    def place(label: str) -> int:
        starts = [i for i, name in enumerate(names) if label.startswith(name)]
        return max(starts, key=lambda i: len(names[i]), default=len(names))

    return sorted(labels, key=place)
