"""Arm against arm over all cells that both have."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.arms import PCA, base, in_order
from analysis.frames import groups, only, part, where
from analysis.tables.pairs import CELL
from analysis.tables.stats import half_interval


class _Values(NamedTuple):
    """One arm's y, NaN where it has no run."""

    at_each_d: np.ndarray  # (cells with d, seeds); an arm without d has its value at each
    without_d: np.ndarray | None  # (cells without d, seeds), of arms that have none


def wins_table(readings: pd.DataFrame, y: str = "ce_recovered") -> pd.DataFrame:
    """One row per reading and pair of arms that share a cell: who preserves more, by how much, and how often.

    Columns: inference, arm, other; cells (model, layer, n, k, d) that both have; cells_won and cells_lost by `arm`'s
    mean paired difference, won_clearly and lost_clearly where its 95 % interval leaves out 0; difference with
    half_interval and seeds, over the seeds of each seed's mean over cells (cells_averaged: those that have all of the
    most common seeds). `pca` is left out: it is not sparse.
    """
    rows: list[dict[str, object]] = []
    for (inference,), of_reading in groups(where(readings, readings["arm"].map(base) != PCA), ["inference"]):
        values = _values(of_reading, y)
        for arm, other in combinations(in_order(values), 2):
            found = _minus(values[arm], values[other])
            if len(found):
                rows.append({"inference": inference, "arm": arm, "other": other, **_score(found)})
    return pd.DataFrame(rows)


def _values(rows: pd.DataFrame, y: str) -> dict[str, _Values]:
    seeds = sorted(rows["seed"].unique())
    panels = pd.MultiIndex.from_frame(part(rows, CELL).drop_duplicates())
    cells = pd.MultiIndex.from_frame(part(where(rows, rows["d"].notna()), [*CELL, "d"]).drop_duplicates())
    panel_of_cell = panels.get_indexer(cells.droplevel("d"))
    found: dict[str, _Values] = {}
    for arm in rows["arm"].unique():
        of_arm = only(rows, arm=arm)
        graded = all(of_arm["d"].notna())
        table = of_arm.pivot_table(y, index=[*CELL, "d"] if graded else CELL, columns="seed")
        values = table.reindex(index=cells if graded else panels, columns=seeds).to_numpy()
        found[arm] = _Values(values, None) if graded else _Values(values[panel_of_cell], values)
    return found


def _minus(one: _Values, other: _Values) -> np.ndarray:
    """one - other, (cells that both have, seeds); an arm without d stands against each d of the other."""
    if one.without_d is not None and other.without_d is not None:
        difference = one.without_d - other.without_d
    else:
        difference = one.at_each_d - other.at_each_d
    return difference[~np.isnan(difference).all(axis=1)]


def _score(found: np.ndarray) -> dict[str, object]:
    """`found`: differences (cells, seeds), NaN where one of the two arms has no run."""
    halves = np.array([half_interval(cell) for cell in found])  # NaN for one seed: never clear
    means = np.nanmean(found, axis=1)
    common = Counter(tuple(cell) for cell in ~np.isnan(found)).most_common(1)[0][0]
    full = found[:, list(common)]
    full = full[~np.isnan(full).any(axis=1)]
    by_seed = full.mean(axis=0)
    return {
        "cells": len(found),
        "cells_won": int((means > 0).sum()),
        "won_clearly": int((means - halves > 0).sum()),
        "cells_lost": int((means < 0).sum()),
        "lost_clearly": int((means + halves < 0).sum()),
        "difference": float(by_seed.mean()),
        "half_interval": half_interval(by_seed),
        "seeds": sum(common),
        "cells_averaged": len(full),
    }
