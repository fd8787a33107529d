"""The floor: what a random dictionary scores at the same sizes, read in the same way, beside the score of every arm.

A random dictionary read by pursuit preserves most of the cross-entropy, so that a score says nothing about a dictionary
until it is compared with this one. The random dictionary is `frozen_random`, whose only learned parameter is a bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis.arms import FROZEN, PCA, SPARSE, base, parse
from analysis.frames import column, dicts, only, where
from analysis.tables.pairs import CELL
from analysis.tables.stats import over_seeds, t_quantile

FLOOR = ["floor", "floor_half_interval", "floor_d", "above_floor", "resolvable"]  # the columns of `with_floor`
LOWER_IS_BETTER = ("fvu", "relative_error", "delta_ce", "dead_fraction", "absorption", "parent_missed")
MINUS_FROM = "minus_from"  # the column of a table of differences that have a floor of their own
NO_FLOOR = ("mcc_ceiling", "l0", "negative_codes")  # nothing is better or worse about them


class Score(NamedTuple):
    """A mean over seeds."""

    mean: float
    half_interval: float  # of the 95 % interval; NaN with a single seed
    seeds: int

    @property
    def error(self) -> float:
        """The standard error of the mean; NaN with a single seed."""
        return self.half_interval / t_quantile(self.seeds - 1) if self.seeds > 1 else math.nan


class Floor(NamedTuple):
    """The score of a random dictionary, and the d and basis that it has."""

    d: float
    score: Score
    basis: str | None = None  # None for the neurons'


Floors = dict[tuple[object, ...], list[Floor]]  # by cell and way of reading


def with_floor(
    table: pd.DataFrame,
    control: pd.DataFrame,
    y: str,
    by: Sequence[str] = CELL,
    measure: str | None = None,
    mean: str = "mean",
    half: str = "half_interval",
) -> pd.DataFrame:
    """Return `table` with the columns of FLOOR:

        floor                what `frozen_random` scores in the same cell `by`, read in the same way: the better of
                             those trained one-shot and by a pursuit, in the same basis and at the same d where there is
                             one, else in the neurons' basis, at any d
        floor_half_interval  of its 95 % interval
        floor_d              the d of that random dictionary
        above_floor          (mean - floor) / (1 - floor); where low values are good, (floor - mean) / floor
        resolvable           the smallest difference to the floor that so many seeds can tell from none: the half width
                             of the 95 % interval of a difference of two means

    All are NaN where no random dictionary was measured in this way, and for PCA, which is not sparse.

    Args:
        table: with the columns `by`, arm, reading, d, seeds, `mean` and `half`.
        control: one row per run and way of reading, with the columns `by`, arm, base_arm, reading, d, seed and `y`.
            Rows of other arms than `frozen_random` are ignored.
        measure: the name of `y` in LOWER_IS_BETTER and NO_FLOOR, where that is another.
        mean, half: the columns of the table that hold the score and its half interval.
    """
    name = y if measure is None else measure
    floors = {} if name in NO_FLOOR else measured_floors(control, y, by)
    found: list[dict[str, float]] = []
    for row in dicts(table):
        options = [] if base(row["arm"]) == PCA else floors.get((*(row[key] for key in by), row["reading"]), [])
        own = Score(row[mean], row[half], row["seeds"])
        found.append(beside(own, best_floor(options, row["d"], name, _basis(row["arm"])), name))
    columns = pd.DataFrame(found, columns=FLOOR, index=table.index, dtype=float)
    return pd.concat([table.drop(columns=FLOOR, errors="ignore"), columns], axis=1)


def measured_floors(control: pd.DataFrame, y: str, by: Sequence[str]) -> Floors:
    """Return the scores of every random dictionary in `control`, by cell and way of reading."""
    frozen = only(control, base_arm=FROZEN)
    frozen = where(frozen, frozen[y].notna())
    found: Floors = {}
    for row in dicts(over_seeds(frozen, [*by, "reading", "arm", "d"], y)) if len(frozen) else []:
        score = Score(row["mean"], row["half_interval"], row["seeds"])
        found.setdefault((*(row[key] for key in by), row["reading"]), []).append(
            Floor(row["d"], score, _basis(row["arm"]))
        )
    return found


def best_floor(options: Sequence[Floor], d: float, measure: str, basis: str | None = None) -> Floor | None:
    """Return the best of the random dictionaries that are most like an arm's; None where there is none.

    These are the ones in its basis, else in the neurons', else all; and of these the ones with its d, else all. A basis
    follows the data and stores values, so that a random dictionary behind one knows more than another does.
    """
    alike = [one for one in options if one.basis == basis] or [one for one in options if one.basis is None] or options
    same = [one for one in alike if one.d == d]
    better = min if measure in LOWER_IS_BETTER else max
    return better(same or alike, key=lambda one: one.score.mean, default=None)


def _basis(label: str) -> str | None:
    """Return the basis that the atoms of an arm are sparse in; None for the neurons', and for dense atoms."""
    arm = parse(label)
    return arm.basis if arm.base in SPARSE else None


def beside(own: Score, floor: Floor | None, measure: str = "") -> dict[str, float]:
    """Return what the floor says of a score, as the columns FLOOR; low values are good of LOWER_IS_BETTER alone."""
    if floor is None:
        return dict.fromkeys(FLOOR, math.nan)
    level = floor.score.mean
    if measure in LOWER_IS_BETTER:
        above = (level - own.mean) / level if level else math.nan
    else:
        above = (own.mean - level) / (1 - level) if level < 1 else math.nan
    values = (level, floor.score.half_interval, floor.d, above, resolvable(own, floor.score))
    return dict(zip(FLOOR, values, strict=True))


def resolvable(one: Score, other: Score) -> float:
    """Return the half width of the 95 % interval of the difference of two means (Welch); NaN with a single seed."""
    if one.seeds < 2 or other.seeds < 2:
        return math.nan
    a, b = one.error**2, other.error**2
    if a + b == 0:
        return 0.0
    freedom = (a + b) ** 2 / (a**2 / (one.seeds - 1) + b**2 / (other.seeds - 1))
    return t_quantile(max(1.0, freedom)) * math.sqrt(a + b)


def missing_floors(table: pd.DataFrame) -> int:
    """Return how many rows of a table have no floor though a random dictionary could be measured beside them."""
    if "floor" not in table:
        return 0
    found = where(table, table["arm"].map(base) != PCA) if "arm" in table else table
    if "what" in found:
        is_difference = column(found, "what").str.startswith("difference") & (MINUS_FROM not in found)
        found = where(found, ~column(found, "what").isin(NO_FLOOR) & ~is_difference)
    return int(column(found, "floor").isna().sum())
