"""Sparse probing: how well a few latents tell labelled concepts, beside activations' own coordinates and the floor."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pandas as pd

from analysis.arms import FROZEN
from analysis.frames import column, dicts, groups, only
from analysis.read.records import ALL_SETS
from analysis.read.sources import NoRunsError
from analysis.tables.pairs import CELL
from analysis.tables.stats import over_seeds

_SIZES = ["arm", "d", "n_latents", "degree", "artifact_bytes", "learned_decoder_values"]
_BY = [*CELL, "reading", "family", "set", "best"]


def probing_table(probes: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of the best 1, 2 and 5 latents on each set, over seeds.

    Args:
        probes: `analysis.read.records.Records.probes`.

    Columns: model, layer, n, k, reading, family, set (ALL_SETS is one of them), best (the number of latents), arm, d,
    n_latents, degree, artifact_bytes, learned_decoder_values, mean and half_interval (95 %) over SAEs of several seeds,
    each the mean of all draws of items, seeds; and

        raw          the accuracy of as many coordinates of the activation itself
        raw_all      that of all coordinates
        floor        that of `frozen_random` read in the same way, the better of those trained one-shot and by a pursuit
        above_floor  (mean - floor) / (1 - floor)
    """
    rows: list[dict[str, Any]] = []
    for key, cell in groups(probes, _BY):
        frozen = only(cell, base_arm=FROZEN)
        floors = over_seeds(frozen, ["arm", "d"], "accuracy")["mean"] if len(frozen) else ()
        floor = max(floors, default=math.nan)
        raw = {name: fmean(column(cell, name)) for name in ("raw", "raw_all")}
        for row in dicts(over_seeds(cell, _SIZES, "accuracy")):
            above = (row["mean"] - floor) / (1 - floor) if floor < 1 else math.nan
            rows.append({**dict(zip(_BY, key, strict=True)), **row, **raw, "floor": floor, "above_floor": above})
    return pd.DataFrame(rows)


def mean_of_sets(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table that are means over all sets. Raises NoRunsError where there are none."""
    found = only(table, set=ALL_SETS)
    if found.empty:
        raise NoRunsError("no run was probed; python -m sweep.evaluate run=all eval.probing=[code]")
    return found
