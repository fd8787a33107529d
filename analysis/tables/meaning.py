"""What latents mean, on data made of known features: each arm beside the floor, what a random dictionary scores too."""

from __future__ import annotations

import math

import pandas as pd

from analysis.frames import column, groups, mean_by, part, where
from analysis.read.sources import NoRunsError
from analysis.tables.floor import with_floor
from analysis.tables.stats import over_seeds

# Measures by name, and what they are for people; the first four are drawn.
MEASURES = {
    "coverage": "features found (share)",
    "feature_f1": "F1 of a feature's best latent",
    "explained_variance": "explained variance",
    "absorption": "absorption rate",
    "latent_f1": "F1 of a latent's best feature",
    "latent_precision": "precision of a latent",
    "latent_recall": "recall of a latent",
    "uniqueness": "features told apart, per latent",
    "parent_missed": "parents missed without absorption",
    "mcc": "mean cosine of matched atoms (MCC)",
    "mcc_ceiling": "the highest MCC of such supports",
    "cosine_uniqueness": "closest features told apart, per atom",
    "fvu": "fraction of variance unexplained",
    "l0": "latents a sample",
    "negative_codes": "codes below zero (share)",
    "dead_fraction": "dead latents (share)",
}
_CHANCE = {"coverage": "coverage_chance", "feature_f1": "feature_f1_chance", "latent_f1": "latent_f1_chance"}
CELL = ["model", "features", "settings", "n", "k", "reading"]
_SIZES = ["arm", "d", "n_latents", "degree", "artifact_bytes", "learned_decoder_values"]


def meaning_table(samples: pd.DataFrame) -> pd.DataFrame:
    """Return every measure of every arm and way of reading, over seeds, beside its floor and what chance gives.

    Args:
        samples: `analysis.read.records.Records.samples`.

    Columns: model, features, n, k, reading, arm, d, n_latents, degree, artifact_bytes, learned_decoder_values, mean,
    half_interval (95 %), seeds, `what` (a name of MEASURES), those of `analysis.tables.floor.with_floor`, and `chance`:
    what latents would score that fire as often as these and independently of the features, NaN for measures that have
    no such value. Rows are sorted by arm and size.
    """
    tables: list[pd.DataFrame] = []
    for _, cell in groups(samples, CELL):
        for what in MEASURES:
            known = where(cell, cell[what].notna()) if what in cell else cell.iloc[:0]
            if len(known):
                table = over_seeds(known, [*CELL, *_SIZES], what).assign(what=what)
                tables.append(_with_chance(with_floor(table, known, what, CELL[:-1]), known, what))
    return pd.concat(tables, ignore_index=True).drop(columns="settings")


def _with_chance(table: pd.DataFrame, known: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return `table` with the mean over seeds of a measure's value by chance as `chance`."""
    name = _CHANCE.get(what)
    if name is None or name not in known:
        return table.assign(chance=math.nan)
    by = [*CELL, *_SIZES]
    return table.merge(mean_by(known, by, [name]).rename(columns={name: "chance"}), on=by)


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first four measures, of which a figure shows panels."""
    kept = list(MEASURES)[:4]
    return where(table, table["what"].isin(kept))


def check_comparable(samples: pd.DataFrame) -> None:
    """Raise NoRunsError where runs of the same features differ in their recipe or their model's other settings."""
    for (features, n, k), rows in groups(samples, ["features", "n", "k"]):
        if (count := int(column(rows, "settings").nunique())) > 1:
            runs = part(rows, ["settings", "run_id"]).drop_duplicates("settings")["run_id"].tolist()
            raise NoRunsError(
                f"{features}, n={n}, k={k}: {count} different recipes or models, such as in runs "
                f"{', '.join(runs[:2])}; name one folder of runs for each"
            )
