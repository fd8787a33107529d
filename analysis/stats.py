"""Intervals over seeds, and the rows that they are of."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pandas as pd

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom, then the normal's.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def half_interval(values: pd.Series) -> float:
    """Half width of the 95 % t interval of the mean; NaN for a single value."""
    n = len(values)
    if n < 2:
        return math.nan
    t = _T95[n - 2] if n - 1 <= len(_T95) else 1.960
    return t * float(np.std(values.to_numpy(), ddof=1)) / math.sqrt(n)


def over_seeds(runs: pd.DataFrame, by: list[str], y: str) -> pd.DataFrame:
    """Mean of `y` over the seeds of each group of `by`: columns *by, mean, half_interval, seeds."""
    grouped = runs.groupby(by, dropna=False)[y]
    return grouped.agg(mean="mean", half_interval=half_interval, seeds="size").reset_index()


def only(rows: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """The rows whose columns have the values given."""
    for column, value in equal.items():
        rows = cast(pd.DataFrame, rows[rows[column] == value])
    return rows
