"""Sparse dictionaries of equal decoder values: does a dictionary want more atoms, or fuller ones?"""

from __future__ import annotations

import pandas as pd

from analysis.arms import FLOAT_BITS, FROZEN, SPARSE
from analysis.frames import among, distinct, only, where
from analysis.read.sources import NoRunsError
from analysis.tables.floor import with_floor
from analysis.tables.pairs import CELL
from analysis.tables.stats import over_seeds

ENOUGH = 3  # numbers of atoms that make a curve


def iso_storage_table(runs: pd.DataFrame, control: pd.DataFrame | None = None, y: str = "ce_recovered") -> pd.DataFrame:
    """Return one row per (model, layer, k, arm, values, n), averaged over seeds, of sparse arms in the neurons' basis.

    Columns: model, layer, n, k, arm, reading, d, n_latents, `values` = d*n, mean, half_interval (95 %) of `y`, seeds,
    and those of `analysis.tables.floor.with_floor`. There are rows of the (model, layer, k, arm, values) that were
    measured with ENOUGH numbers of atoms n.

    Args:
        control: the runs that have the floor, where `runs` may lack it; None for `runs`.

    Raises:
        NoRunsError: there is no such curve.
    """
    control = runs if control is None else control
    sparse = only(among(runs, "base_arm", [arm for arm in SPARSE if arm != FROZEN]), bits=FLOAT_BITS, basis_values=0)
    sparse = sparse.assign(values=sparse["n_latents"] * sparse["degree"])
    curves = where(sparse, distinct(sparse, ["model", "layer", "k", "arm", "values"], "n_latents") >= ENOUGH)
    if curves.empty:
        raise NoRunsError(
            f"no arm has as many values in {ENOUGH} ways; python -m sweep experiment=controls/iso_storage"
        )
    table = over_seeds(curves, [*CELL, "arm", "reading", "d", "n_latents", "values"], y)
    return with_floor(table, control, y).sort_values(["model", "layer", "k", "arm", "values", "n"], ignore_index=True)
