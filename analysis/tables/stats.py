"""Intervals over seeds, and rows paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd
from scipy.special import stdtrit

from analysis.frames import part, renamed


def t_quantile(degrees_of_freedom: float) -> float:
    """Return the two-sided 95 % quantile of Student's t, to three decimals as printed tables have it."""
    return round(float(stdtrit(degrees_of_freedom, 0.975)), 3)


def half_interval(values: Iterable[float]) -> float:
    """Return the half width of the 95 % t interval of the mean of `values`, t * s / sqrt(n), leaving out NaN.

    It is NaN where fewer than two values are known.
    """
    known = [value for value in values if not math.isnan(value)]
    n = len(known)
    if n < 2:
        return math.nan
    mean = math.fsum(known) / n
    return t_quantile(n - 1) * math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1) / n)


def over_seeds(runs: pd.DataFrame, by: list[str], y: str) -> pd.DataFrame:
    """Return the mean of `y` over the seeds of each group of `by`: columns *by, mean, half_interval (95 %), seeds."""
    grouped = runs.groupby(by, dropna=False)[y]
    return grouped.agg(mean="mean", half_interval=half_interval, seeds="size").reset_index()


def against(rows: pd.DataFrame, base: pd.DataFrame, on: Sequence[str], y: str) -> pd.DataFrame:
    """Return `rows` with `base_y`, the value of `y` in the row of `base` that agrees in the columns `on`.

    Rows without such a partner are left out: only pairs are compared.

    Args:
        base: at most one row per `on`.
        on: the columns that pair rows, the seed among them.
    """
    partners = renamed(part(base, [*on, y]), {y: "base_y"})
    return rows.merge(partners, how="inner", on=list(on), validate="many_to_one")
