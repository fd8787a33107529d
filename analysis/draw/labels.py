"""Texts beside some points of an axis, as many as have room without covering one another or a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

_DISTANCES = (7.0, 12.0, 19.0, 28.0)  # points (1/72 inch) from a point to its text, tried in this order
_GAP = 6.0  # pixels between two texts
_MARK_SPACING = 4.0  # pixels between the points that stand for a line


def label_points(
    axis: Axes,
    points: Sequence[tuple[float, float, str]],
    others: np.ndarray,
    line: np.ndarray,
    toward: tuple[int, int],
) -> int:
    """Write the texts that have room, and return how many: first those of the first and last point, then between.

    Args:
        axis: of a figure that was laid out (`figure.draw_without_rendering()`) and whose limits are final.
        points: x, y and text, in data units, in order along a line.
        others: (n, 2), data units: points that no text may cover.
        line: (corners, 2), data units: a line that no text may cross.
        toward: the side where texts go, (-1, 1) for above on the left.
    """
    marks = axis.transData.transform(np.vstack([others.reshape(-1, 2), [point[:2] for point in points]]))
    marks = np.vstack([marks, _along(axis.transData.transform(line))])
    taken: list[Bbox] = []
    for place in spread(len(points)):
        x, y, text = points[place]
        box = _write(axis, (x, y), text, toward, marks, taken)
        taken += [box] if box else []
    return len(taken)


def spread(count: int) -> list[int]:
    """Return 0..count-1 so that the first few, however many, are spread evenly: the ends, then middles of gaps."""
    order = list(dict.fromkeys([0, count - 1])) if count else []
    gaps = [(0, count - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return order


def _along(corners: np.ndarray) -> np.ndarray:
    """Return points on the line through `corners`, (n, 2) pixels, so close that no text fits between two."""
    pieces = [corners[:1]]
    for start, end in zip(corners, corners[1:], strict=False):
        steps = max(2, math.ceil(float(np.abs(end - start).max()) / _MARK_SPACING))
        pieces.append(np.linspace(start, end, steps + 1))
    return np.vstack(pieces)


def _write(
    axis: Axes, point: tuple[float, float], text: str, toward: tuple[int, int], marks: np.ndarray, taken: list[Bbox]
) -> Bbox | None:
    """Write the text beside `point` and return its box in pixels; write nothing and return None without room for it."""
    written = axis.annotate(text, point, xytext=(0, 0), textcoords="offset points", fontsize=7, color="0.15", zorder=6)
    written.set_in_layout(False)
    figure = axis.figure
    assert isinstance(figure, Figure)
    scale = figure.dpi / 72
    size = written.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    frame = axis.get_window_extent()
    centre = axis.transData.transform(point)
    for dx, dy in _offsets(toward):
        left = centre[0] + dx * scale - (size.width if dx < 0 else size.width / 2 if dx == 0 else 0)
        bottom = centre[1] + dy * scale - (size.height if dy < 0 else size.height / 2 if dy == 0 else 0)
        box = Bbox.from_bounds(left, bottom, size.width, size.height)
        far = max(abs(dx), abs(dy)) > _DISTANCES[1]  # so far that a line must lead to the text
        if _has_room(box, frame, marks, taken) and not (far and _crosses(centre, (dx * scale, dy * scale), taken)):
            written.xyann = (dx, dy)
            written.set_horizontalalignment("right" if dx < 0 else "center" if dx == 0 else "left")
            written.set_verticalalignment("top" if dy < 0 else "center" if dy == 0 else "bottom")
            if far:
                _draw_lead(axis, point, (dx, dy))
            return box
    written.remove()
    return None


def _offsets(toward: tuple[int, int]) -> list[tuple[float, float]]:
    """Return the places to try for a text, in points (1/72 inch) from its point, the nearest first."""
    x, y = toward
    offsets = [(x * step, y * step * part) for step in _DISTANCES for part in (0.5, 0.0, 1.6)]
    return [*offsets, (0.0, y * 9.0)]


def _crosses(start: np.ndarray, offset: tuple[float, float], taken: Sequence[Bbox]) -> bool:
    """Return whether the straight way from `start` by `offset`, in pixels, passes through one of the boxes."""
    way = np.linspace(start, start + np.array(offset), 12)
    return any(box.contains(x, y) for box in taken for x, y in way)


def _draw_lead(axis: Axes, point: tuple[float, float], offset: tuple[float, float]) -> None:
    look: dict[str, Any] = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4}
    line = axis.annotate("", point, xytext=offset, textcoords="offset points", arrowprops=look)
    line.set_in_layout(False)


def _has_room(box: Bbox, frame: Bbox, marks: np.ndarray, taken: Sequence[Bbox]) -> bool:
    """Return whether `box` lies inside `frame`, covers no mark and keeps _GAP from every box in `taken`; in pixels."""
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    wide = box.padded(_GAP)
    in_x = (wide.x0 < marks[:, 0]) & (marks[:, 0] < wide.x1)
    in_y = (wide.y0 < marks[:, 1]) & (marks[:, 1] < wide.y1)
    return bool(inside and not (in_x & in_y).any() and not any(wide.overlaps(other) for other in taken))
