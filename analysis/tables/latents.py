"""The table of each arm's latents: how many are dead, rare, novel, reliable or in collision, and how diverse."""

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
MEASURES = {  # column: its name for people
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
    """Return one row per (model, layer, n, k, arm, d) with every number under the records' `latents`.

    A number has its keys joined by `_` as its column, with its mean over seeds, and `<column>_half_interval` (95 %).

    Raises:
        NoRunsError: no record describes its latents.
    """
    kept = [run for run in dicts(runs) if run["latents"]]
    rows = [{**{key: run[key] for key in (*_BY, "seed")}, **dict(_numbers(run["latents"]))} for run in kept]
    if not rows:
        raise NoRunsError("no record describes its latents: runs of this version keep that")
    found = pd.DataFrame(rows)
    measures = [name for name in found.columns if name not in (*_BY, "seed")]
    grouped = found.groupby(_BY, dropna=False)
    columns = {"seeds": ("seed", "size")}
    for name in measures:
        columns |= {name: (name, "mean"), f"{name}_half_interval": (name, half_interval)}
    table = grouped.agg(**columns).reset_index()  # type: ignore[call-overload]
    return sorted_by_arm(table, CELL, ["d"])


def _numbers(found: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield (keys joined by `_`, number) of every number in nested dicts, except for histograms and quantiles."""
    for key, value in found.items():
        if isinstance(value, dict) and not key.startswith("firing_rate"):
            yield from _numbers(value, f"{prefix}{key}_")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)
