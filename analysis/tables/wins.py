"""The table of wins: arm against arm over all cells that both have."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.arms import FLOAT_BITS, PCA, in_order, is_usual
from analysis.frames import dicts, groups, only, part, where
from analysis.tables.pairs import CELL
from analysis.tables.stats import half_interval


class _Values(NamedTuple):
    """The values of y of one arm, NaN where it has no run."""

    at_each_d: np.ndarray  # (cells with d, seeds); an arm without d has the same value at each d
    without_d: np.ndarray | None  # (cells without d, seeds) of an arm without d; None for others


def wins_table(readings: pd.DataFrame, y: str = "ce_recovered") -> pd.DataFrame:
    """Return which of two arms preserves more, by how much and how often: one row per way of reading and pair of arms.

    Columns:

    - inference, arm, other, and `cells`, how many (model, layer, n, k, d) both arms have,
    - cells_won and cells_lost by the sign of `arm`'s mean paired difference; won_clearly and lost_clearly, how many of
      these have a 95 % interval that leaves out 0,
    - difference, half_interval and seeds: the mean over seeds of each seed's mean over cells,
    - cells_averaged, the cells in that mean: those that have all of the most common seeds.

    `pca` is left out, as it is not sparse.
    """
    rows: list[dict[str, object]] = []
    for (inference,), of_reading in groups(where(readings, readings["base_arm"] != PCA), ["inference"]):
        values = _values(of_reading, y)
        for arm, other in combinations(in_order(values), 2):
            found = _minus(values[arm], values[other])
            if len(found):
                rows.append({"inference": inference, "arm": arm, "other": other, **_score(found)})
    return pd.DataFrame(rows)


def comparable_arms(table: pd.DataFrame, readings: pd.DataFrame, usual: bool = True) -> pd.DataFrame:
    """Return the rows whose two arms differ in the base arm alone, not in pursuit or rounding, and are not rounded.

    Both are read by their own encoder; arms trained one-shot also where both are read by OMP. The column `pursuit`
    names the pursuit that trained both, "" for the one-shot encoder.

    Args:
        table: from `wins_table`.
        readings: the readings that `table` was made from, which have the arms' parts.
        usual: leave out the arms that are not `arms.is_usual`: those in another basis or of nested prefixes.
    """
    parts = {row["arm"]: (row["pursuit"], row["bits"]) for row in dicts(readings.drop_duplicates("arm"))}
    drawn = {arm for arm in parts if not usual or is_usual(arm)}

    def shown(row: dict[str, Any]) -> bool:
        pursuit, bits = parts[row["arm"]]
        read_alike = row["inference"] == "encoder" or (row["inference"] == "omp" and pursuit == "")
        alike = bits == FLOAT_BITS and parts[row["other"]] == (pursuit, bits)
        return read_alike and alike and {row["arm"], row["other"]} <= drawn

    found = table.assign(pursuit=[parts[arm][0] for arm in table["arm"]])
    return where(found, [shown(row) for row in dicts(found)])


def _values(rows: pd.DataFrame, y: str) -> dict[str, _Values]:
    """Return the values of each arm, all over the same cells and seeds."""
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
    """Return one - other, (cells that both have, seeds); an arm without d is compared at each d of the other."""
    if one.without_d is not None and other.without_d is not None:
        difference = one.without_d - other.without_d
    else:
        difference = one.at_each_d - other.at_each_d
    return difference[~np.isnan(difference).all(axis=1)]


def _score(found: np.ndarray) -> dict[str, object]:
    """Return the columns of `wins_table` that come from `found`.

    Args:
        found: differences (cells, seeds), NaN where one of the two arms has no run.
    """
    halves = np.array([half_interval(cell) for cell in found])  # NaN for one seed, which is never clear
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
