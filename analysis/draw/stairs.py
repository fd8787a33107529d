"""The staircase through a Pareto set, as lists of corners to draw."""

from __future__ import annotations

import pandas as pd

from analysis.frames import part, where
from analysis.tables.pareto import X_DOWN


def stairs(table: pd.DataFrame, x: str, reach: float) -> tuple[list[float], list[float]]:
    """Return the x and y of the corners of the staircase through the Pareto set of one (model, layer).

    It shows the best y that can be had at each storage. It runs from the best x of the set to its best y, and from
    there on to `reach`, because the best y can be had at more storage too.
    """
    points = part(where(table, table["pareto"]), ["x", "y"]).drop_duplicates()
    points = points.sort_values("x", ascending=x in X_DOWN)
    xs, ys = points["x"].tolist(), points["y"].tolist()
    end = max(xs[-1], reach) if x in X_DOWN else min(xs[-1], reach)
    corners_x = [xs[0], *(place for place in xs[1:] for _ in range(2)), end]
    corners_y = [height for height in ys for _ in range(2)]
    return corners_x, corners_y


def clipped(xs: list[float], ys: list[float], left: float, right: float) -> tuple[list[float], list[float]]:
    """Return the part of a staircase between `left` and `right`.

    The best y that can be had at an edge is kept there, even where the x at which it is reached lies outside.
    """
    if xs[0] > xs[-1]:
        xs, ys = xs[::-1], ys[::-1]
    inside = [(x, y) for x, y in zip(xs, ys, strict=True) if left <= x <= right]
    at_left = [(left, y) for x, y in zip(xs, ys, strict=True) if x < left][-1:] if xs[-1] > left else []
    at_right = [(right, y) for x, y in zip(xs, ys, strict=True) if x > right][:1] if xs[0] < right else []
    corners = [*at_left, *inside, *at_right]
    return [x for x, _ in corners], [y for _, y in corners]
