"""The table of sparse against dense dictionaries at equal stored bytes.

Levels of stored bytes are shares of a full dense SAE, of 4 * (m*n + n + m) bytes in float32. At each level the best
sparse dictionary that fits is held against the best dense one that fits, under three rules on how codes are found:

    one-shot            both by one product and its k largest entries
    dense rival's cost  the sparse one at no more multiply-adds than the best dense one takes that fits and is read
                        one-shot; the dense one in any way; left out where no dense one fits
    any                 both in any way

It is done twice: with values of 32 bits alone, and with values of whatever bits. A sparse dictionary has atoms of d
values, in whatever basis. Random dictionaries, and those that stay near them, are no candidates: the random ones are
the floor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from statistics import mean
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.arms import CONTROLS, DENSE, MATCHED, RIVALS, parse
from analysis.frames import groups, where
from analysis.tables.dominance import Candidate, candidates, of_known_size, random_candidates
from analysis.tables.floor import Floor, beside
from analysis.tables.pairs import CELL, paired
from analysis.tables.stats import half_interval

SHARES = (400, 200, 100, 50, 25, 10, 4)  # a level is the dense bytes divided by one of these
ONE_SHOT, AT_DENSE_COST, ANY = RULES = ("one-shot", "dense rival's cost", "any")
FLOATS, ANY_BITS = VALUES = ("32 bits", "any bits")
SIDES = ("sparse", "dense")


class _Kinds(NamedTuple):
    """The dictionaries of one (model, layer, n, k)."""

    sparse: list[Candidate]
    dense: list[Candidate]
    random: list[Candidate]


def iso_bytes_table(
    readings: pd.DataFrame, y: str = "ce_recovered", control: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return one row per (model, layer, n, k), bits, share of the dense bytes and rule at which anything was measured.

    Columns:

    - values, one of VALUES; share (the dense bytes over the level); level (bytes); rule, one of RULES;
    - for each of SIDES, the best dictionary of that kind: the arm under the side's name, and <side>_d, _n_latents,
      _inference, _bytes, _multiply_adds, _mean, _half_interval (95 %) and _seeds; empty where none fits;
    - difference, sparse minus dense over the seeds that both have, with difference_half_interval (not widened for
      having picked the best of many) and difference_seeds;
    - retained: the sparse one's y over that of the best full dense SAE read one-shot, seed by seed, with
      retained_half_interval and retained_seeds; also retained_dense, the dense one's;
    - the columns of `analysis.tables.floor.beside` for the sparse one, beside the best random dictionary that fits.

    All means are over the seeds that most candidates have, and a dictionary that lacks some of them is the best only
    where all lack some.

    Args:
        readings: one row per run and way of finding its codes (`analysis.read.records.Records.readings`).
        y: the measure that is compared; high values are good.
        control: the readings that have the floor, where `readings` may lack it; None for `readings`.

    Raises:
        NoRunsError: no record says how large its SAE file is.
    """
    random = random_candidates(readings if control is None else control, y)
    rows: list[dict[str, object]] = []
    known = of_known_size(readings)
    for cell, panel in groups(where(known, ~known["base_arm"].isin(CONTROLS)), CELL):
        d_in, n = (int(panel[key].iloc[0]) for key in ("d_in", "n"))
        found = candidates(panel, y)
        dense = [one for one in found if one.base_arm in (*DENSE, *MATCHED, *RIVALS)]
        kinds = _Kinds([one for one in found if one.is_sparse], dense, random.get(cell, []))
        place, seeds = dict(zip(CELL, cell, strict=True)), _usual_seeds(found)
        for values in VALUES:
            compared = kinds if values == ANY_BITS else _Kinds(*map(_of_32_bits, kinds))
            for row in _rows(compared, 4 * (d_in * n + n + d_in), seeds):
                rows.append({**place, "values": values, **row})
    return pd.DataFrame(rows)


def _usual_seeds(found: list[Candidate]) -> frozenset[int]:
    """Return the seeds that most have, the larger set where two are as frequent."""
    counts = Counter(frozenset(one.by_seed) for one in found)
    return max(counts, key=lambda seeds: (counts[seeds], len(seeds)), default=frozenset())


def _of_32_bits(found: list[Candidate]) -> list[Candidate]:
    return [one for one in found if parse(one.arm).bits is None]


def _rows(kinds: _Kinds, dense_bytes: int, seeds: Set[int]) -> list[dict[str, object]]:
    """Return the rows of one (model, layer, n, k)."""
    full = _best([one for one in _of_32_bits(kinds.dense) if np.isnan(one.d)], seeds, ONE_SHOT)
    rows: list[dict[str, object]] = []
    for share in SHARES:
        level = dense_bytes // share
        sparse, dense, random = ([one for one in of if one.fits(level, np.inf)] for of in kinds)
        one_shot = _best(dense, seeds, ONE_SHOT)
        cost = one_shot.cost if one_shot else -np.inf
        for rule in RULES:
            limit = cost if rule == AT_DENSE_COST else np.inf
            best, rival, floor = (
                _best(found, seeds, rule, most) for found, most in ((sparse, limit), (dense, np.inf), (random, limit))
            )
            if best or rival:
                outcome = _outcome(best, rival, full, floor, seeds)
                rows.append({"share": share, "level": level, "rule": rule, **outcome})
    return rows


def _best(found: Sequence[Candidate], seeds: Set[int], rule: str = ANY, limit: float = np.inf) -> Candidate | None:
    """Return the best that the rule and so many multiply-adds allow, None where there is none.

    One that lacks some of `seeds` counts only where all do: the best of single runs owes its place to luck in part.
    """
    allowed = [one for one in found if one.cost <= limit and (rule != ONE_SHOT or one.is_one_shot)]
    whole = [one for one in allowed if seeds <= one.by_seed.keys()]
    return max(whole or allowed, key=lambda one: one.score(seeds), default=None)


def _outcome(
    sparse: Candidate | None,
    dense: Candidate | None,
    full: Candidate | None,
    floor: Candidate | None,
    seeds: Set[int],
) -> dict[str, object]:
    """Return the columns of the two sides, their difference, what they retain, and the floor."""
    row: dict[str, object] = {}
    for side, one in zip(SIDES, (sparse, dense), strict=True):
        row |= one.columns(side, seeds) if one else dict[str, object]()
    apart = paired(sparse.by_seed, dense.by_seed) if sparse and dense else paired({}, {})
    row |= dict(zip(("difference", "difference_half_interval", "difference_seeds"), apart, strict=True))
    ratios, of_dense = _ratios(sparse, full), _ratios(dense, full)
    row |= {"retained": mean(ratios) if ratios else np.nan, "retained_half_interval": half_interval(ratios)}
    row |= {"retained_seeds": len(ratios), "retained_dense": mean(of_dense) if of_dense else np.nan}
    if sparse is None or floor is None:
        return row | {"floor": np.nan}
    return row | beside(sparse.mean_of(seeds), Floor(floor.d, floor.mean_of(seeds)))


def _ratios(one: Candidate | None, full: Candidate | None) -> list[float]:
    """Return y of the one over y of the other, for each seed that both have."""
    if one is None or full is None:
        return []
    return [one.by_seed[seed] / full.by_seed[seed] for seed in one.by_seed if seed in full.by_seed]
