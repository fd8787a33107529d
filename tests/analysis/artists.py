"""Readers of what a matplotlib figure draws: points, lines and error bars as the artists hold them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.container import ErrorbarContainer

from analysis.draw.floor import FLOOR_ID
from analysis.draw.meaning import CHANCE_ID
from tests.analysis.synthetic import N


class Panel(NamedTuple):
    """The layer and k in a panel's title."""

    layer: int | None  # None where the layer is an axis
    k: int


def panel_of(axis, layer=True):
    """Return layer and k of a panel, read from its title "tiny, after block 1, n = 512, k = 8"."""
    parts = axis.get_title(loc="left").split(", ")
    assert parts[0] == "tiny" and f"n = {N}" in parts
    return Panel(int(parts[1].removeprefix("after block ")) if layer else None, int(parts[-1].split("k = ")[1]))


def visible(figure):
    """Return the axes of a figure that are shown."""
    return [axis for axis in figure.axes if axis.get_visible()]


def bars(axis):
    """Return (x, y, half width of the error bar) of every point that is drawn with an error bar, in any order."""
    found = []
    for line, _, (collection, *_) in (c.lines for c in axis.containers if isinstance(c, ErrorbarContainer)):
        halves = [np.ptp(path.vertices[:, 1]) / 2 for path in collection.get_paths()]
        found += [(x, y, half) for (x, y), half in zip(line.get_xydata(), halves, strict=True)]
    return found


def bar_caps(axis):
    """Return the lines that are caps of error bars."""
    return {cap for container in axis.containers for cap in container.lines[1]}


def data_lines(axis):
    """Return the lines through data: neither those across a whole panel, nor the floor, nor the caps of error bars."""
    caps = bar_caps(axis)
    return [line for line in own_lines(axis) if line.get_transform() is axis.transData and line not in caps]


def own_lines(axis):
    """Return the lines that are neither the floor nor what chance gives."""
    return [line for line in axis.lines if line.get_gid() not in (FLOOR_ID, CHANCE_ID)]


def floors(axis):
    """Return the lines of the floor."""
    return [line for line in axis.lines if line.get_gid() == FLOOR_ID]


def points(axis):
    """Return (x, y) of every point of the lines through data."""
    return [tuple(point) for line in data_lines(axis) for point in line.get_xydata()]


def columns(table, *names):
    """Return the rows of a table as tuples of the columns `names`."""
    return list(table[list(names)].itertuples(index=False, name=None))


def same(found, expected):
    """Assert that two collections have the same points, in any order."""
    assert len(found) == len(expected) > 0
    order = [np.array(sorted(these, key=lambda point: tuple(np.round(point, 9)))) for these in (found, expected)]
    np.testing.assert_allclose(*order, rtol=1e-9, atol=1e-12)
