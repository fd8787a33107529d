"""The dominance table: the dictionary that preserves the most at a given number of stored bytes and multiply-adds.

Levels of stored bytes are powers of two, from the first that holds the smallest SAE file of a (model, layer, n, k) to
the first that holds its largest. At each level three budgets limit the multiply-adds a token that finding codes may
take:

    one-shot expander   the largest n*d among sparse dictionaries with learned values that fit the level
    one-shot dense      m*n, what the encoder of a dense SAE of all n latents takes
    unlimited

The floor of a level and budget is the best random dictionary that fits them. A winner whose lead over it is no larger
than what so many seeds can resolve is not above the floor, whatever it preserves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.arms import FROZEN, PCA, SPARSE, TOPK
from analysis.frames import groups, only, where
from analysis.read.sources import NoRunsError
from analysis.tables.floor import Floor, Score, beside
from analysis.tables.pairs import CELL, MODEL_LAYER_N, paired
from analysis.tables.stats import half_interval

BUDGETS = ("one-shot expander", "one-shot dense", "unlimited")
ABOVE, NOT_ABOVE = "above the floor", "not above the floor"
ONE_SEED, NO_FLOOR = "one seed, cannot be told", "no floor measured"
_CANDIDATE = ["arm", "n_latents", "degree", "d", "inference", "base_arm", "reading"]


class Candidate(NamedTuple):
    """One dictionary with one way of reading its codes."""

    arm: str
    n_latents: int
    degree: int
    d: float  # the d asked for; NaN for a dense SAE of all n latents
    inference: str  # the way of reading
    base_arm: str  # the arm without pursuit and rounding
    reading: str  # what finds the codes: topk or a pursuit
    stored: float  # bytes of the SAE file, the largest over its seeds
    cost: float  # multiply-adds a token, the largest number over its seeds
    by_seed: dict[int, float]  # the measure y that is compared, by seed

    @property
    def is_sparse(self) -> bool:
        return self.base_arm in SPARSE

    @property
    def is_one_shot(self) -> bool:
        return self.reading == TOPK

    def fits(self, level: int, limit: float) -> bool:
        """Return whether it fits the bytes and the multiply-adds; one of unknown cost (NaN) fits no limit but none."""
        return self.stored <= level and (self.cost <= limit or limit == np.inf)

    def values(self, seeds: Set[int] = frozenset()) -> list[float]:
        """Return y of the given seeds that it has; where it has none of them, y of all its seeds."""
        return [self.by_seed[seed] for seed in self.by_seed if seed in seeds] or list(self.by_seed.values())

    def score(self, seeds: Set[int] = frozenset()) -> float:
        """Return the mean of `values`."""
        return mean(self.values(seeds))

    def mean_of(self, seeds: Set[int]) -> Score:
        """Return the mean of `values` with its interval."""
        values = self.values(seeds)
        return Score(mean(values), half_interval(values), len(values))

    def columns(self, role: str, seeds: Set[int]) -> dict[str, object]:
        """Return its columns in a role: `role` is its arm, `role_d` its d, and so on."""
        found = self.mean_of(seeds)
        return {
            role: self.arm,
            f"{role}_d": self.d,
            f"{role}_n_latents": self.n_latents,
            f"{role}_inference": self.inference,
            f"{role}_bytes": self.stored,
            f"{role}_multiply_adds": self.cost,
            f"{role}_mean": found.mean,
            f"{role}_half_interval": found.half_interval,
            f"{role}_seeds": found.seeds,
        }


class _Others(NamedTuple):
    """The dictionaries that a panel's winners are held against."""

    random: list[Candidate]
    pca: list[Candidate]


def dominance_table(
    readings: pd.DataFrame, y: str = "ce_recovered", control: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return one row per (model, layer, n, k), level of stored bytes and budget.

    Columns:

    - level (bytes), budget, and multiply_adds, the budget's limit (inf where unlimited);
    - for each role, `winner`, `runner_up` and `other_kind`: the arm under the role's name, and <role>_d, _n_latents,
      _inference, _bytes, _multiply_adds, _mean, _half_interval (95 %) and _seeds;
    - for the last two roles also <role>_difference, the winner's y minus theirs over the seeds that both have, with
      _difference_half_interval (not widened for having picked the best of many) and _difference_seeds;
    - floor_arm, floor_inference and the columns of `analysis.tables.floor.beside`: the best `frozen_random` that fits,
      of those with two seeds or more where there are any, and `verdict` on the winner: ABOVE, NOT_ABOVE, ONE_SEED (more
      than the floor, but one seed resolves nothing) or NO_FLOOR (no random dictionary that fits was measured),
    - pca_mean and pca_n_latents of the best PCA within the level. It is never a winner: its codes are not sparse.

    The winner has the highest mean y of all that fit. The runner-up is the best of another arm; an arm trained by
    pursuit or rounded counts as the same arm. The other kind is the best dense dictionary where the winner is sparse,
    and the best sparse one where it is dense. All means are over the seeds that most candidates have; further seeds of
    a candidate are ignored.

    Args:
        readings: one row per run and way of finding its codes (`analysis.read.records.Records.readings`).
        y: the measure that is compared; high values are good.
        control: the readings that have the floor, where `readings` may lack it; None for `readings`.

    Raises:
        NoRunsError: no record has artifact_bytes.
    """
    known, rows = of_known_size(readings), list[dict[str, object]]()
    random = random_candidates(readings if control is None else control, y)
    is_pca = known["base_arm"] == PCA
    pca = {panel: candidates(found, y) for panel, found in groups(where(known, is_pca), MODEL_LAYER_N)}
    for cell, panel in groups(where(known, ~is_pca), CELL):
        dense_cost = float(panel["d_in"].iloc[0] * panel["n"].iloc[0])
        others = _Others(random.get(cell, []), pca.get(cell[: len(MODEL_LAYER_N)], []))
        found = _panel_rows(candidates(panel, y), others, dense_cost)
        rows += [{**dict(zip(CELL, cell, strict=True)), **row} for row in found]
    return pd.DataFrame(rows)


def of_known_size(readings: pd.DataFrame) -> pd.DataFrame:
    """Return the readings of runs whose file's size is known. Raises NoRunsError where there is none."""
    known = where(readings, readings["artifact_bytes"].notna())
    if known.empty:
        raise NoRunsError("no record says how large its SAE file is")
    return known


def random_candidates(readings: pd.DataFrame, y: str) -> dict[tuple[Any, ...], list[Candidate]]:
    """Return the random dictionaries of known size, by (model, layer, n, k)."""
    frozen = only(readings, base_arm=FROZEN)
    return {cell: candidates(rows, y) for cell, rows in groups(where(frozen, frozen["artifact_bytes"].notna()), CELL)}


def candidates(panel: pd.DataFrame, y: str) -> list[Candidate]:
    """Return every dictionary of a (model, layer, n, k) with every way of reading it.

    The SAE's own encoder comes first, so that a tie goes to the name `encoder`: `topk` may be the same encoder.
    """
    found: list[Candidate] = []
    for key, rows in groups(where(panel, panel[y].notna()), _CANDIDATE):
        by_seed = dict(zip(rows["seed"], rows[y], strict=True))
        stored, cost = float(max(rows["artifact_bytes"])), float(max(rows["multiply_adds"]))
        found.append(Candidate(*key, stored=stored, cost=cost, by_seed=by_seed))
    return sorted(found, key=lambda one: one.inference != "encoder")


def levels(smallest: float, largest: float) -> list[int]:
    """Return the powers of two from the first of at least `smallest` to the first of at least `largest`."""
    first, last = (int(np.ceil(np.log2(size))) for size in (smallest, largest))
    return [2**power for power in range(first, last + 1)]


def _panel_rows(found: list[Candidate], others: _Others, dense_cost: float) -> list[dict[str, object]]:
    """Return the rows of one (model, layer, n, k); `dense_cost` is the budget "one-shot dense"."""
    seeds = Counter(frozenset(one.by_seed) for one in found).most_common(1)[0][0]
    sizes = [one.stored for one in found]
    rows: list[dict[str, object]] = []
    for level in levels(min(sizes), max(sizes)):
        fitting = [one for one in found if one.stored <= level]
        learned = [one for one in fitting if one.is_sparse and one.base_arm != FROZEN]
        one_shot = max((one.n_latents * one.degree for one in learned), default=np.nan)
        for budget, limit in zip(BUDGETS, (one_shot, dense_cost, np.inf), strict=True):
            eligible = [one for one in found if one.fits(level, limit)]
            if eligible:
                place = {"level": level, "budget": budget, "multiply_adds": limit}
                random = [one for one in others.random if one.fits(level, limit)]
                rows.append({**place, **_outcome(eligible, random, seeds), **_best_pca(others.pca, level)})
    return rows


def _outcome(eligible: list[Candidate], random: list[Candidate], seeds: Set[int]) -> dict[str, object]:
    """Return the columns of the winner, of its two rivals and of the floor."""
    winner = max(eligible, key=lambda one: one.score(seeds))
    others = [one for one in eligible if one.base_arm != winner.base_arm]
    other_kind = [one for one in eligible if one.is_sparse != winner.is_sparse]
    row: dict[str, object] = winner.columns("winner", seeds)
    for name, rivals in (("runner_up", others), ("other_kind", other_kind)):
        rival = max(rivals, key=lambda one: one.score(seeds), default=None)
        if rival is not None:
            apart = paired(winner.by_seed, rival.by_seed)
            row |= rival.columns(name, seeds) | {
                f"{name}_difference": apart.mean,
                f"{name}_difference_half_interval": apart.half_interval,
                f"{name}_difference_seeds": apart.seeds,
            }
    return row | _against_floor(winner, random, seeds)


def _against_floor(winner: Candidate, random: list[Candidate], seeds: Set[int]) -> dict[str, object]:
    """Return the columns of the floor and the verdict."""
    several = [one for one in random if len(one.values(seeds)) > 1]  # a single seed resolves nothing
    best = max(several or random, key=lambda one: one.score(seeds), default=None)
    if best is None:
        return {"floor_arm": None, "floor_inference": None, **beside(winner.mean_of(seeds), None), "verdict": NO_FLOOR}
    columns = beside(winner.mean_of(seeds), Floor(best.d, best.mean_of(seeds)))
    lead = winner.score(seeds) - columns["floor"]
    if winner.base_arm == FROZEN or lead <= 0:
        verdict = NOT_ABOVE
    elif np.isnan(columns["resolvable"]):
        verdict = ONE_SEED
    else:
        verdict = ABOVE if lead > columns["resolvable"] else NOT_ABOVE
    return {"floor_arm": best.arm, "floor_inference": best.inference, **columns, "verdict": verdict}


def _best_pca(pca: list[Candidate], level: int) -> dict[str, object]:
    """Return mean and size of the best PCA that fits the level, NaN where none does."""
    fitting = [one for one in pca if one.stored <= level]
    best = max(fitting, key=lambda one: one.score(), default=None)
    return {"pca_mean": best.score() if best else np.nan, "pca_n_latents": best.n_latents if best else np.nan}
