"""Sparse probing: how well a few latents tell labelled concepts, beside activations' own coordinates and the floor."""

from __future__ import annotations

import pandas as pd

from analysis.frames import mean_by, only
from analysis.read.rows import ALL_SETS
from analysis.read.sources import NoRunsError
from analysis.tables.floor import with_floor
from analysis.tables.pairs import CELL
from analysis.tables.stats import over_seeds

_SIZES = ["arm", "d", "n_latents", "degree", "artifact_bytes", "learned_decoder_values"]
_CELL = [*CELL, "reading", "family", "set", "best"]


def probing_table(probes: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of the best 1, 2 and 5 latents on each set, over seeds.

    Args:
        probes: `analysis.read.records.Records.probes`.

    Columns: model, layer, n, k, reading, family, set (ALL_SETS is one of them), best (the number of latents), arm, d,
    n_latents, degree, artifact_bytes, learned_decoder_values, mean and half_interval (95 %) over SAEs of several seeds,
    each the mean of all draws of items, seeds, those of `analysis.tables.floor.with_floor`, and

        raw          the accuracy of as many coordinates of the activation itself
        raw_all      that of all coordinates
    """
    table = over_seeds(probes, [*_CELL, *_SIZES], "accuracy")
    table = table.merge(mean_by(probes, _CELL, ["raw", "raw_all"]), on=_CELL)
    return with_floor(table, probes, "accuracy", [name for name in _CELL if name != "reading"])


def mean_of_sets(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table that are means over all sets. Raises NoRunsError where there are none."""
    found = only(table, set=ALL_SETS)
    if found.empty:
        raise NoRunsError("no run was probed; python -m sweep.evaluate run=all eval.probing=[code]")
    return found
