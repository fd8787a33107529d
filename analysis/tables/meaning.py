"""What latents mean, on data made of known features: each arm beside the floor, what a random dictionary scores too."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from analysis.arms import FROZEN
from analysis.frames import column, dicts, groups, only, part, where
from analysis.read.sources import NoRunsError
from analysis.tables.stats import over_seeds, t_quantile

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
NO_FLOOR = ("mcc_ceiling", "l0", "negative_codes")  # nothing is better or worse about them
LOWER_IS_BETTER = ("fvu", "absorption", "parent_missed", "dead_fraction")
CELL = ["model", "features", "settings", "n", "k", "reading"]
_SIZES = ["arm", "d", "n_latents", "degree", "artifact_bytes", "learned_decoder_values"]


class Score(NamedTuple):
    """A mean over seeds."""

    mean: float
    half_interval: float  # of the 95 % interval; NaN with a single seed
    seeds: int

    @property
    def error(self) -> float:
        """The standard error of the mean; NaN with a single seed."""
        return self.half_interval / t_quantile(self.seeds - 1) if self.seeds > 1 else math.nan


def meaning_table(samples: pd.DataFrame) -> pd.DataFrame:
    """Return every measure of every arm and way of reading, over seeds, beside its floor.

    Args:
        samples: `analysis.read.records.Records.samples`.

    Columns: model, features, n, k, reading, arm, d, n_latents, degree, artifact_bytes, learned_decoder_values, `what`
    (a name of MEASURES), mean, half_interval (95 %), seeds; and

        floor        what `frozen_random` scores at the same n and k, read in the same way: the better of those trained
                     one-shot and by a pursuit, at the same d where there is one
        above_floor  (mean - floor) / (1 - floor); where low values are good, (floor - mean) / floor
        resolvable   the smallest difference to the floor that so many seeds can tell from none: the half width of the
                     95 % interval of a difference of two means

    Rows are sorted by arm and size. The floor is NaN where no frozen_random was measured in this way.
    """
    rows: list[dict[str, object]] = []
    for key, cell in groups(samples, CELL):
        for what in MEASURES:
            known = where(cell, cell[what].notna()) if what in cell else cell.iloc[:0]
            if known.empty:
                continue
            for row in dicts(over_seeds(known, _SIZES, what)):
                floor = None if what in NO_FLOOR else _floor(known, what, row["d"])
                about = dict(zip(CELL, key, strict=True))
                own = Score(row["mean"], row["half_interval"], row["seeds"])
                rows.append({**about, **row, "what": what, **_beside(own, floor, what)})
    return pd.DataFrame(rows).drop(columns="settings")


def _floor(known: pd.DataFrame, what: str, d: float) -> Score | None:
    """Return the floor of a measure among the rows of one cell."""
    frozen = only(known, base_arm=FROZEN)
    same = only(frozen, d=d)
    by_arm = over_seeds(frozen if same.empty else same, ["arm", "d"], what)
    floors = [Score(row["mean"], row["half_interval"], row["seeds"]) for row in dicts(by_arm)]
    better = min if what in LOWER_IS_BETTER else max
    return better(floors, key=lambda floor: floor.mean) if floors else None


def _beside(own: Score, floor: Score | None, what: str) -> dict[str, float]:
    """Return what the floor says of a score."""
    if floor is None:
        return dict.fromkeys(("floor", "above_floor", "resolvable"), math.nan)
    if what in LOWER_IS_BETTER:
        above = (floor.mean - own.mean) / floor.mean if floor.mean else math.nan
    else:
        above = (own.mean - floor.mean) / (1 - floor.mean) if floor.mean < 1 else math.nan
    return {"floor": floor.mean, "above_floor": above, "resolvable": resolvable(own, floor)}


def resolvable(one: Score, other: Score) -> float:
    """Return the half width of the 95 % interval of the difference of two means (Welch); NaN with a single seed."""
    if one.seeds < 2 or other.seeds < 2:
        return math.nan
    a, b = one.error**2, other.error**2
    if a + b == 0:
        return 0.0
    freedom = (a + b) ** 2 / (a**2 / (one.seeds - 1) + b**2 / (other.seeds - 1))
    return t_quantile(max(1.0, freedom)) * math.sqrt(a + b)


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
