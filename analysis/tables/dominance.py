"""At a given number of stored bytes and multiply-adds, which dictionary preserves the most?

Levels of stored bytes are powers of two, from the first that holds a panel's smallest artifact to the first that holds
its largest. At each level three budgets of multiply-adds a token limit how codes may be found:

    one-shot expander   n*d of the largest sparse arm with learned values whose artifact fits the level
    one-shot dense      m*n, what the encoder of a dense SAE of all n latents takes
    unlimited
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from statistics import mean
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.arms import FROZEN, PCA, SPARSE, base
from analysis.frames import groups, where
from analysis.read.sources import NoRunsError
from analysis.tables.pairs import CELL, PANEL, paired
from analysis.tables.stats import half_interval

BUDGETS = ("one-shot expander", "one-shot dense", "unlimited")
_CANDIDATE = ["arm", "n_latents", "degree", "d", "inference"]


class Candidate(NamedTuple):
    """One dictionary read one way."""

    arm: str
    n_latents: int
    degree: int
    d: float  # as asked; NaN for a dense SAE of all n latents
    inference: str
    stored: float  # bytes: the largest of its seeds' artifacts
    cost: float  # multiply-adds a token: the most of its seeds
    by_seed: dict[int, float]  # y

    def values(self, seeds: Set[int]) -> list[float]:
        """Those of `seeds` that it has; all of its own where it has none of them."""
        return [self.by_seed[seed] for seed in self.by_seed if seed in seeds] or list(self.by_seed.values())

    def score(self, seeds: Set[int]) -> float:
        return mean(self.values(seeds))


def dominance_table(readings: pd.DataFrame, y: str = "ce_recovered") -> pd.DataFrame:
    """One row per (model, layer, n, k), level of stored bytes and budget.

    Columns: level (bytes), budget, multiply_adds (its limit, inf where unlimited);
    for the `winner`, which has the highest mean y of all that fit: arm, d, n_latents, inference, bytes, multiply_adds,
    mean with half_interval (95 %), seeds;
    for the `runner_up`, the best of another base arm (training and rounding aside), and for `other_kind`, the best
    dense one where the winner is sparse and the other way round: the same, and `difference`, the winner's y minus its
    own over the seeds that both have, with half_interval (not widened for having picked the best of many) and seeds;
    and `pca`, the best PCA within the level: mean and n_latents. It is never a winner: its codes are not sparse.

    Means are over a panel's most common seeds, so that a cell with more of them is not compared by other ones.

    Raises:
        NoRunsError: no record has artifact_bytes.
    """
    known = where(readings, readings["artifact_bytes"].notna())
    if known.empty:
        raise NoRunsError("no record says how large its artifact is")
    rows: list[dict[str, object]] = []
    of_pca = known["arm"].map(base) == PCA
    pca = {panel: candidates(found, y) for panel, found in groups(where(known, of_pca), PANEL)}
    for cell, panel in groups(where(known, ~of_pca), CELL):
        dense_cost = float(panel["d_in"].iloc[0] * panel["n"].iloc[0])
        found = _panel(candidates(panel, y), pca.get(cell[:3], []), dense_cost)
        rows += [{**dict(zip(CELL, cell, strict=True)), **row} for row in found]
    return pd.DataFrame(rows)


def candidates(panel: pd.DataFrame, y: str) -> list[Candidate]:
    """Every dictionary of a panel with every way it was read; the own encoder before other names of the same."""
    found: list[Candidate] = []
    for key, rows in groups(where(panel, panel[y].notna()), _CANDIDATE):
        by_seed = dict(zip(rows["seed"], rows[y], strict=True))
        stored, cost = float(max(rows["artifact_bytes"])), float(max(rows["multiply_adds"]))
        found.append(Candidate(*key, stored=stored, cost=cost, by_seed=by_seed))
    return sorted(found, key=lambda one: one.inference != "encoder")


def levels(smallest: float, largest: float) -> list[int]:
    """Powers of two from the first of at least `smallest` to the first of at least `largest`."""
    first, last = (int(np.ceil(np.log2(size))) for size in (smallest, largest))
    return [2**power for power in range(first, last + 1)]


def _panel(found: list[Candidate], pca: list[Candidate], dense_cost: float) -> list[dict[str, object]]:
    seeds = Counter(frozenset(one.by_seed) for one in found).most_common(1)[0][0]
    sizes = [one.stored for one in found]
    rows: list[dict[str, object]] = []
    for level in levels(min(sizes), max(sizes)):
        fitting = [one for one in found if one.stored <= level]
        learned = [one for one in fitting if base(one.arm) in SPARSE and base(one.arm) != FROZEN]
        one_shot = max((one.n_latents * one.degree for one in learned), default=np.nan)
        for budget, limit in zip(BUDGETS, (one_shot, dense_cost, np.inf), strict=True):
            eligible = [one for one in fitting if one.cost <= limit or limit == np.inf]  # an unknown cost only there
            if eligible:
                outcome = _outcome(eligible, seeds)
                rows.append(
                    {"level": level, "budget": budget, "multiply_adds": limit, **outcome, **_best_pca(pca, level)}
                )
    return rows


def _outcome(eligible: list[Candidate], seeds: Set[int]) -> dict[str, object]:
    winner = max(eligible, key=lambda one: one.score(seeds))
    others = [one for one in eligible if base(one.arm) != base(winner.arm)]
    other_kind = [one for one in eligible if (base(one.arm) in SPARSE) != (base(winner.arm) in SPARSE)]
    row: dict[str, object] = _described("winner", winner, seeds)
    for name, rivals in (("runner_up", others), ("other_kind", other_kind)):
        rival = max(rivals, key=lambda one: one.score(seeds), default=None)
        if rival is not None:
            apart = paired(winner.by_seed, rival.by_seed)
            row |= _described(name, rival, seeds) | {
                f"{name}_difference": apart.mean,
                f"{name}_difference_half_interval": apart.half_interval,
                f"{name}_difference_seeds": apart.seeds,
            }
    return row


def _described(role: str, one: Candidate, seeds: Set[int]) -> dict[str, object]:
    drawn = one.values(seeds)
    described = {
        "d": one.d, "n_latents": one.n_latents, "inference": one.inference, "bytes": one.stored,
        "multiply_adds": one.cost, "mean": mean(drawn), "half_interval": half_interval(drawn),
        "seeds": len(drawn),
    }  # fmt: skip
    return {role: one.arm, **{f"{role}_{name}": value for name, value in described.items()}}


def _best_pca(pca: list[Candidate], level: int) -> dict[str, object]:
    fitting = [one for one in pca if one.stored <= level]
    best = max(fitting, key=lambda one: one.score(set()), default=None)
    return {"pca_mean": best.score(set()) if best else np.nan, "pca_n_latents": best.n_latents if best else np.nan}
