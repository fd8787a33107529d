"""Arms compared with each other: differences and ratios of runs of the same cell and seed, never of means."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.arms import REFERENCE
from analysis.frames import only
from analysis.tables.stats import against, half_interval

MODEL_LAYER_N = ["model", "layer", "n"]
CELL = [*MODEL_LAYER_N, "k"]  # the columns that tell one panel of a figure from another


class Paired(NamedTuple):
    """The mean over the seeds that two arms share."""

    mean: float
    half_interval: float  # 95 %, NaN for one seed
    seeds: int


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> Paired:
    """Return the mean of one - other over the seeds that both have; NaN and 0 seeds where they share none.

    Args:
        one, other: values by seed.
    """
    found = [one[seed] - other[seed] for seed in one if seed in other]
    return Paired(mean(found), half_interval(found), len(found)) if found else Paired(np.nan, np.nan, 0)


def differences(rows: pd.DataFrame, arm: str, other: str, y: str) -> pd.DataFrame:
    """Return the runs of `arm` that have a partner of `other`, with `difference`: y of `arm` minus y of `other`.

    Partners agree in (model, layer, n, k, seed), and in d where both arms have one; a dense SAE of all n latents, which
    has no d, is the partner at every d.
    """
    left, right, on = _join(only(rows, arm=arm), only(rows, arm=other))
    found = against(left, right.drop_duplicates(on), on, y)
    return found.assign(other=other, difference=found[y] - found["base_y"])


def _join(left: pd.DataFrame, right: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return the rows to merge and the columns to merge on; where only one arm has a d, the left rows get it."""
    on = [*CELL, "seed"]
    if all(left["d"].notna()) and all(right["d"].notna()):
        return left, right, [*on, "d"]
    if all(left["d"].isna()) and any(right["d"].notna()):  # the left rows are repeated at each d of the right ones
        cells = right[[*on, "d"]].drop_duplicates()
        return left.drop(columns="d").merge(cells, on=on), right, [*on, "d"]
    return left, right, on


def difference_table(rows: pd.DataFrame, arm: str, other: str, y: str) -> pd.DataFrame:
    """Return the paired difference per cell (model, layer, n, k, d): mean, half_interval (95 %), seeds, arm, other."""
    found = differences(rows, arm, other, y)
    grouped = found.groupby([*CELL, "d"], dropna=False)["difference"]
    table = grouped.agg(mean="mean", half_interval=half_interval, seeds="size").reset_index()
    return table.assign(arm=arm, other=other)


def all_differences(rows: pd.DataFrame, arms: list[str], others: list[str], y: str) -> pd.DataFrame:
    """Return `difference_table` of each of `arms` against each of `others`, one below the other."""
    tables = [difference_table(rows, arm, other, y) for arm in arms for other in others if arm != other]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def retained(rows: pd.DataFrame, by: list[str], y: str) -> pd.DataFrame:
    """Return per group of `by` the mean over seeds of y divided by y of the one-shot dense_tied.

    The dense SAE is the one at the same (model, layer, n, k, seed), read by its own encoder where `rows` have readings;
    groups without one are missing.

    Returns:
        the columns *by, retained, retained_half_interval (95 %), retained_seeds.
    """
    dense = only(rows, arm=REFERENCE)
    if "inference" in dense.columns:
        dense = only(dense, inference="encoder")
    on = [*CELL, "seed"]
    found = against(rows, dense.drop_duplicates(on), on, y)
    grouped = found.assign(ratio=found[y] / found["base_y"]).groupby(by, dropna=False)["ratio"]
    return grouped.agg(retained="mean", retained_half_interval=half_interval, retained_seeds="size").reset_index()
