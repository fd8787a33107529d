"""How alike SAEs are that differ in a seed alone, beside what chance, random dictionaries and their supports allow."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.arms import FROZEN
from analysis.frames import among, column, dicts, groups, only, where
from analysis.tables.stats import over_seeds

# Measures by name, and what they are for people; all but the last of the shares are drawn.
MEASURES = {
    "functional_match": "mean correlation with the\nbest match of the other SAE",
    "above_90": "latents found again\n(share with correlation > .9)",
    "above_70": "latents found again\n(share with correlation > .7)",
    "pw_mcc": "mean |cosine| of atoms matched\none to one (PW-MCC)",
    "above_50": "latents found again\n(share with correlation > .5)",
}
DRAWN = list(MEASURES)[:4]
ATOMS = "pw_mcc"  # the one measure that is of atoms
ALL = "all"
DIFFERS = (ALL, "support", "values", "order")  # which seeds may differ in a pair
CELL = ["model", "place", "n", "k", "reading"]
_SIZES = ["arm", "d", "n_latents", "degree", "artifact_bytes", "differs"]


def stability_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return every measure per arm and kind of pair, over pairs of runs, beside chance, floor and ceiling.

    Args:
        pairs: `analysis.read.records.Records.pairs`.

    Columns: model, place, n, k, reading, arm, d, n_latents, degree, artifact_bytes, differs (all, or the one thing
    whose seed differs), `what` (a name of MEASURES), mean, half_interval (95 %, over pairs), pairs; and

        chance       the mean of what chance gives: latents that fire as often, and independently; for atoms, random
                     values on the same supports
        floor        what `frozen_random` scores at the same n and k by the same reading where all seeds differ, at the
                     same d where there is one; for atoms at the same d alone, as sparser ones are closer by chance
        above_floor  (mean - floor) / (1 - floor)
        ceiling      of PW-MCC, the highest that the supports allow
        live         share of latents that the measures of latents are about

    Three runs make three pairs, of which every two share a run: the intervals take them as independent.
    """
    rows: list[dict[str, Any]] = []
    for key, cell in groups(pairs, CELL):
        for what in MEASURES:
            known = where(cell, cell[what].notna())
            for row in dicts(over_seeds(known, _SIZES, what)) if len(known) else ():
                alike = _alike(known, row)
                floor = _floor(known, what, row["d"])
                rows.append(
                    {
                        **dict(zip(CELL, key, strict=True)),
                        **row,
                        "what": what,
                        "chance": float(column(alike, f"{what}_chance").mean()),
                        "floor": floor,
                        "above_floor": (row["mean"] - floor) / (1 - floor) if floor < 1 else math.nan,
                        "ceiling": float(column(alike, "pw_mcc_ceiling").mean()) if what == ATOMS else math.nan,
                        "live": float(column(alike, "live_fraction").mean()),
                    }
                )
    return pd.DataFrame(rows).rename(columns={"seeds": "pairs"})


def drawn(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the measures that a figure shows."""
    return among(table, "what", DRAWN)


def _alike(rows: pd.DataFrame, row: dict[str, Any]) -> pd.DataFrame:
    """Return the rows of the same arm, sizes and kind of pair; a d of NaN equals itself."""
    found = only(rows, **{name: row[name] for name in _SIZES if name != "d"})
    return where(found, found["d"].isna() if math.isnan(row["d"]) else found["d"] == row["d"])


def _floor(rows: pd.DataFrame, what: str, d: float) -> float:
    """Return what random dictionaries score, NaN where none were compared."""
    frozen = only(rows, base_arm=FROZEN, differs=ALL)
    same = only(frozen, d=d)
    if same.empty and what == ATOMS:
        return math.nan
    by_d = over_seeds(frozen if same.empty else same, ["d"], what)["mean"] if len(frozen) else ()
    return max(by_d, default=math.nan)
