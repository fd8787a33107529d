"""The staircase through a Pareto set, as it is drawn."""

from __future__ import annotations

import pandas as pd

from analysis.frames import part, where
from analysis.tables.pareto import X_DOWN


def stairs(table: pd.DataFrame, x: str, reach: float) -> tuple[list[float], list[float]]:
    """The corners of the staircase through the Pareto set of one (model, layer), from its best x to its best y: what
    can be had at each storage; and from there on to `reach`, at which the best y can be had too."""
    points = part(where(table, table["pareto"]), ["x", "y"]).drop_duplicates()
    points = points.sort_values("x", ascending=x in X_DOWN)
    xs, ys = points["x"].tolist(), points["y"].tolist()
    further = min(xs[-1], reach) if x not in X_DOWN else max(xs[-1], reach)
    corners_x = [xs[0], *(at for at in xs[1:] for _ in range(2)), further]
    corners_y = [at for at in ys for _ in range(2)]
    return corners_x, corners_y


def clipped(xs: list[float], ys: list[float], left: float, right: float) -> tuple[list[float], list[float]]:
    """The part of the staircase between `left` and `right`: the best y there is seen though its own x is not."""
    if xs[0] > xs[-1]:
        xs, ys = xs[::-1], ys[::-1]
    inside = [(x, y) for x, y in zip(xs, ys, strict=True) if left <= x <= right]
    at_left = [(left, y) for x, y in zip(xs, ys, strict=True) if x < left][-1:] if xs[-1] > left else []
    at_right = [(right, y) for x, y in zip(xs, ys, strict=True) if x > right][:1] if xs[0] < right else []
    corners = [*at_left, *inside, *at_right]
    return [x for x, _ in corners], [y for _, y in corners]
