"""The measures that dictionaries are compared by: what they preserve of an LM, and what their latents mean.

Each gives one row per run and way of reading its codes, with the columns of `analysis.read.records.Records.readings`
that say what the run is, and a column for the measure. High values are good in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from analysis.arms import TOPK
from analysis.frames import only, part
from analysis.read.records import Records
from analysis.read.rows import ALL_SETS, ENCODER
from analysis.tables.meaning import check_comparable

BEST = 5  # latents of a probe


class Measure(NamedTuple):
    """A measure of a dictionary read in some way."""

    label: str  # for people
    column: str
    rows: Callable[[Records], pd.DataFrame]


def fidelity_rows(records: Records) -> pd.DataFrame:
    """Return the readings of an LM's SAEs. Raises NoRunsError where there are none."""
    return records.readings


def feature_rows(records: Records) -> pd.DataFrame:
    """Return the readings of SAEs of synthetic models; `model` says which features, and `layer` is empty.

    Raises:
        NoRunsError: there are none, or they differ in their recipe or model.
    """
    samples = records.samples
    check_comparable(samples)
    own = samples["reading"] == [pursuit or TOPK for pursuit in samples["pursuit"]]
    return samples.assign(
        model=samples["model"] + ", " + samples["features"],
        layer="",
        inference=samples["reading"].where(~own, ENCODER),
    )


def probing_rows(records: Records) -> pd.DataFrame:
    """Return the readings of SAEs that were probed, with `accuracy`: of BEST latents, the mean of a family's sets.

    The column `model` names the family too, and the measures of an LM are those of the same reading.

    Raises:
        NoRunsError: no run was probed.
    """
    probes = only(records.probes, set=ALL_SETS, best=BEST)
    ways = records.readings.sort_values("inference", key=lambda names: names != ENCODER, kind="stable")
    of_way = ["ce_recovered", "multiply_adds", "inference"]
    ways = part(ways.drop_duplicates(["run_id", "reading"]), ["run_id", "reading", *of_way])
    found = probes.drop(columns=of_way, errors="ignore").merge(ways, how="inner", on=["run_id", "reading"])
    return found.assign(model=found["model"] + ", " + found["family"] + " sets")


MEASURES = {
    "ce_recovered": Measure("CE recovered", "ce_recovered", fidelity_rows),
    "ce_recovered_mean": Measure("CE recovered, mean ablation", "ce_recovered_mean", fidelity_rows),
    "coverage": Measure("features found (share)", "coverage", feature_rows),
    "feature_f1": Measure("F1 of a feature's best latent", "feature_f1", feature_rows),
    "probing": Measure(f"accuracy of the best {BEST} latents", "accuracy", probing_rows),
}
