"""Intervals over seeds, differences and ratios paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from analysis.frames import part, renamed

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom, then the normal's.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def half_interval(values: Iterable[float]) -> float:
    """Half width of the 95 % t interval of the mean of the values there are; NaN for a single one."""
    known = [value for value in values if not math.isnan(value)]
    n = len(known)
    if n < 2:
        return math.nan
    t = _T95[n - 2] if n - 1 <= len(_T95) else 1.960
    mean = math.fsum(known) / n
    return t * math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1) / n)


def over_seeds(runs: pd.DataFrame, by: list[str], y: str) -> pd.DataFrame:
    """Mean of `y` over the seeds of each group of `by`: columns *by, mean, half_interval, seeds."""
    grouped = runs.groupby(by, dropna=False)[y]
    return grouped.agg(mean="mean", half_interval=half_interval, seeds="size").reset_index()


def against(rows: pd.DataFrame, base: pd.DataFrame, on: Sequence[str], y: str) -> pd.DataFrame:
    """`rows` with `base_y`, the value of `y` that `base` has in the same `on` (the seed among them).

    Rows without one are left out: what is not paired is not compared. `base` has one row per `on`.
    """
    theirs = renamed(part(base, [*on, y]), {y: "base_y"})
    return rows.merge(theirs, how="inner", on=list(on), validate="many_to_one")
