"""The floor in figures: what a random dictionary scores, in grey, as a line over the arms' sizes or as a level."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.arms import BATCH_TOPK, FROZEN, PCA, SPARSE, TOPK, base, parse
from analysis.frames import column, groups, only, where
from analysis.tables.floor import LOWER_IS_BETTER

FLOOR_ID = "floor"  # the id of every line and area here, which tells them from an arm's own
COLOUR = "0.5"
OTHER_BASIS = "in another basis"  # stands among ways of reading for the floors of points in another basis
_MARK: dict[str, Any] = {"color": COLOUR, "markersize": 5, "gid": FLOOR_ID, "zorder": 1.5}  # a floor at one point
_SIZES = ("x", "d")  # x axes that follow from d; at other places of other axes other floors hold
_MISSING = "(no random dictionary measured)"


def way_of_reading(reading: str) -> str:
    """Return how codes were read, for titles: "one-shot" or "by mp_refit", for example."""
    return "one-shot" if reading == TOPK else f"by {reading}"


def way_of_inference(arm: str, inference: str) -> str:
    """Return how an arm's codes were read, for titles; by its own encoder is by the pursuit that trained it, if any."""
    pursuit = parse(arm).pursuit
    own = TOPK if pursuit in (None, BATCH_TOPK) else pursuit
    return way_of_reading(own if inference == "encoder" else inference)


def say_missing(axis: Axes) -> None:
    """Write below the label of the x axis that the panel has no floor."""
    axis.set_xlabel(f"{axis.get_xlabel()}\n{_MISSING}".lstrip(), fontsize=9)


def draw_floors(
    axis: Axes, rows: pd.DataFrame, x: str, measure: str, marker: str = "x", level: bool = False, across: bool = False
) -> set[str]:
    """Draw what random dictionaries score beside the arms of a panel, and return the ways of reading that were drawn.

    There is a line per way of reading, at the places that the sparse arms have on the x axis, or a point where there is
    one such place alone. Over sizes it is a level across the panel where there is none. A way of reading of which the
    panel shows `frozen_random` itself gets no line. A floor in another basis than the neurons' is a mark beside the
    point that it belongs to, and OTHER_BASIS is among the ways of reading. A panel that knows no floor says so below
    its x axis, which has its label by then.

    Args:
        rows: the rows drawn in the panel, with the columns of `analysis.tables.floor.with_floor`.
        measure: what the panel shows; in LOWER_IS_BETTER of `analysis.tables.floor` where low values are good.
        across: draw one line through all places, where d follows from the place, such as at equal values d*n.
        level: draw levels, at the best floor: for axes on which a random dictionary stands elsewhere, such as bytes.
    """
    compared = where(rows, rows["arm"].map(base) != PCA)
    known = where(compared, compared["floor"].notna())
    if known.empty and len(compared):
        say_missing(axis)
    itself = set(where(known, known["arm"].map(base) == FROZEN)["reading"])
    parts = [parse(arm) for arm in known["arm"]]
    in_neurons = where(known, [arm.basis is None for arm in parts])
    elsewhere = where(known, [arm.basis is not None and arm.base != FROZEN for arm in parts])
    readings = [reading for reading in dict.fromkeys(in_neurons["reading"]) if reading not in itself]
    for reading in readings:
        found = only(in_neurons, reading=reading)
        look: dict[str, Any] = {"color": COLOUR, "linestyle": _line(reading), "gid": FLOOR_ID, "zorder": 1.5}
        lines = [] if level else _lines(found, x, across)
        for line in lines:
            _draw_line(axis, line, x, {**look, "marker": marker})
        if not lines:
            floors = column(found, "floor")
            best = floors.min() if measure in LOWER_IS_BETTER else floors.max()
            axis.axhline(float(best), linewidth=1.3, **look)
    for _, of_arm in groups(elsewhere, ["arm"]):
        of_arm = of_arm.sort_values(x)
        axis.plot(of_arm[x], of_arm["floor"], **_other_basis(marker), **_MARK)
    return {*readings, *([OTHER_BASIS] if len(elsewhere) else [])}


def draw_own_floors(axis: Axes, rows: pd.DataFrame, x: str) -> bool:
    """Draw what a random dictionary of each point's d and basis scores, at its place; return whether any is known."""
    known = where(rows, rows["floor"].notna())
    if known.empty:
        say_missing(axis)
    axis.plot(known[x], known["floor"], linestyle="", marker="x", **_MARK)
    return len(known) > 0


def own_floor_handle() -> Artist:
    """Return the legend's entry for `draw_own_floors`."""
    label = "floor of the point at this place:\na random dictionary, read alike"
    return Line2D([], [], color=COLOUR, linestyle="", marker="x", markersize=5, label=label)


def _lines(known: pd.DataFrame, x: str, across: bool) -> list[pd.DataFrame]:
    """Return the rows of each line over the column `x`; none where a level says all that is known."""
    same_d = where(known, known["arm"].map(base).isin(SPARSE) & (known["d"] == known["floor_d"]))
    places = (known if same_d.empty and x not in _SIZES else same_d).drop_duplicates([x, "floor_d"]).sort_values(x)
    if x in _SIZES:
        return [places] if len(places) else []
    return [places] if across else [rows for _, rows in groups(places, ["floor_d"])]


def _draw_line(axis: Axes, line: pd.DataFrame, x: str, look: dict[str, Any]) -> None:
    axis.plot(line[x], line["floor"], markersize=5, linewidth=1.3, **look)
    half = column(line, "floor_half_interval")
    if half.notna().all():
        low, high = line["floor"] - half, line["floor"] + half
        axis.fill_between(line[x], low, high, color=COLOUR, alpha=0.15, linewidth=0, gid=FLOOR_ID)


def floor_handles(readings: Iterable[str], marker: str = "x") -> list[Artist]:
    """Return a legend's entries for the floors of these ways of reading."""
    order = sorted(readings, key=lambda reading: (reading != TOPK, reading))
    labels = {reading: f"floor: random dictionary,\nread {way_of_reading(reading)}" for reading in order}
    handles: list[Artist] = []
    if labels.pop(OTHER_BASIS, None):
        label = "floor of the point at this place:\na random dictionary in its basis"
        handles.append(Line2D([], [], color=COLOUR, label=label, **_other_basis(marker)))
    for reading, label in labels.items():
        handles.append(Line2D([], [], color=COLOUR, linestyle=_line(reading), marker=marker, label=label))
    return handles


def _other_basis(marker: str) -> dict[str, Any]:
    """Return the look of a floor in another basis: marks, or a line where lines have no markers."""
    return {"linestyle": "", "marker": "+"} if marker else {"linestyle": "-.", "marker": ""}


def _line(reading: str) -> Any:
    return ":" if reading == TOPK else "--"


def only_with_floor(name: str, table: pd.DataFrame, floor: str, by: list[str]) -> pd.DataFrame:
    """Return the rows to draw in the figure `name`: those of panels in which a random dictionary was measured too.

    Where no panel has one, all are drawn. A line on standard error says how many panels are left out.

    Args:
        floor: the column of what the random dictionary scores.
        by: the columns that name a panel.
    """
    panels = groups(table, by)
    known = [rows for _, rows in panels if len(column(rows, floor).dropna())]
    if not known or len(known) == len(panels):
        return table
    left_out = len(panels) - len(known)
    message = f"note: {name}: {left_out} of {len(panels)} panels are in the CSV only: no random dictionary was read so"
    print(message, file=sys.stderr)
    return pd.concat(known)


def mark_floor(axis: Axes, points: pd.DataFrame, low_is_good: bool = False) -> None:
    """Draw the floor as a level, once the panel has its limits and labels, and shade what is no better than it."""
    if floors := [float(floor) for floor in points["floor"].dropna().unique()]:
        floor = min(floors) if low_is_good else max(floors)
        axis.axhline(floor, color=COLOUR, linestyle="--", linewidth=1.2, gid=FLOOR_ID)
        low, high = axis.get_ylim()
        area = (floor, high) if low_is_good else (low, floor)
        axis.axhspan(*area, color="0.93", zorder=0, gid=FLOOR_ID)
        axis.set_ylim(low, high)
    elif len(points):
        say_missing(axis)


def level_handles(floors: pd.Series) -> list[Artist]:
    """Return the legend's entry for `mark_floor`; none where no panel has a floor.

    Args:
        floors: what random dictionaries score, NaN where none was measured.
    """
    label = "floor: random dictionary,\nread in the same way"
    return [Line2D([], [], color=COLOUR, linestyle="--", label=label)] * bool(floors.notna().any())
