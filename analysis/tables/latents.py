"""What the latents of each arm are like: dead, rare, new, steady, in collision, diverse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.frames import dicts, sorted_by_arm
from analysis.read.sources import NoRunsError
from analysis.tables.pairs import CELL
from analysis.tables.stats import half_interval

_BY = [*CELL, "arm", "d"]
NOVELTY_NULL = "novelty_novel_fraction_null"
MEASURES = {  # column: what people call it
    "dead_fraction": "dead",
    "near_dead_fraction": "near-dead",
    "novelty_novel_fraction": "novel (| null)",
    "split_half_reliability": "split-half reliability",
    "collisions": "collisions",
    "supports_distinct_fraction": "distinct supports",
    "supports_mean_overlap": "overlap of supports",
    "token_entropy": "token entropy",
    "cosine_mean_best": "best cosine",
}


def summary_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per (model, layer, n, k, arm, d): mean over seeds and `<measure>_half_interval` (95 %) of every number
    under the records' `latents`, nested ones joined by `_`, and seeds.

    Raises:
        NoRunsError: no record has any.
    """
    rows = [
        {**{key: run[key] for key in (*_BY, "seed")}, **dict(_numbers(run["latents"]))}
        for run in dicts(runs)
        if run["latents"]
    ]
    if not rows:
        raise NoRunsError("no record says what its latents are like: that is kept by runs of this version")
    found = pd.DataFrame(rows)
    measures = [name for name in found.columns if name not in (*_BY, "seed")]
    grouped = found.groupby(_BY, dropna=False)
    columns = {"seeds": ("seed", "size")}
    for name in measures:
        columns |= {name: (name, "mean"), f"{name}_half_interval": (name, half_interval)}
    table = grouped.agg(**columns).reset_index()  # type: ignore[call-overload]
    return sorted_by_arm(table, CELL, ["d"])


def _numbers(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested dicts, under its path; histograms and quantiles are no single numbers."""
    for key, value in found.items():
        if isinstance(value, dict) and not key.startswith("firing_rate"):
            yield from _numbers(value, f"{prefix}{key}_")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)
