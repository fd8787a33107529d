"""Tables of what changes with training: learning curves, and data efficiency over training pools of several sizes."""

from __future__ import annotations

import json

import pandas as pd

from analysis.frames import dicts, distinct, groups, only, where
from analysis.read.comparable import without_repeats
from analysis.read.sources import NoRunsError
from analysis.tables.floor import with_floor
from analysis.tables.pairs import CELL, MODEL_LAYER_N
from analysis.tables.stats import over_seeds

_POOL = "activations.tokens"
_CURVES = ("fvu", "dead_fraction")  # the measures with a curve, in the order of a figure's panels


def learning_table(runs: pd.DataFrame, control: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return FVU and dead fraction against training tokens.

    One row per (model, layer, n, k, arm, reading, d, what, tokens), with mean, half_interval (95 %), seeds, and the
    columns of `analysis.tables.floor.with_floor`: the floor is a random dictionary's after as many tokens.

    Args:
        control: the runs that have the floor, where `runs` may lack it; None for `runs`.

    Raises:
        NoRunsError: no record has learning curves.
    """
    points = _points(runs)
    floors = points if control is None else _points(control)
    if points.empty:
        raise NoRunsError("no record has learning curves: they are kept by runs of this version")
    table = over_seeds(points, [*CELL, "arm", "reading", "d", "what", "tokens"], "value")
    by = [*CELL, "what", "tokens"]
    tables = [with_floor(only(table, what=what), only(floors, what=what), "value", by, what) for what in _CURVES]
    return pd.concat(tables, ignore_index=True)


def _points(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run, measure with a curve and point of it."""
    rows: list[dict[str, object]] = []
    for run in dicts(runs):
        curves = run["curves"]
        cell = {key: run[key] for key in (*CELL, "arm", "base_arm", "reading", "d", "seed")}
        for what in _CURVES:
            points = zip(curves.get("tokens", ()), curves.get(what, ()), strict=False)
            known = [(tokens, value) for tokens, value in points if value is not None]
            rows += [{**cell, "what": what, "tokens": tokens, "value": value} for tokens, value in known]
    return pd.DataFrame(rows)


def main_degrees(table: pd.DataFrame) -> pd.DataFrame:
    """Return in each (model, layer, n, k) the rows of one d, and those of arms that have none.

    This is the d that the most arms have; where several d tie, it is the middle one of them. A figure of every d would
    hide its arms.
    """
    kept: list[pd.DataFrame] = []
    for _, panel in groups(table, CELL):
        arms_at = {d: len(set(rows["arm"])) for (d,), rows in groups(panel.dropna(subset=["d"]), ["d"])}
        most = [d for d, count in arms_at.items() if count == max(arms_at.values())]
        d = most[len(most) // 2] if most else None
        kept.append(where(panel, panel["d"].isna() | (panel["d"] == d)))
    return pd.concat(kept, ignore_index=True)


def data_table(everything: pd.DataFrame, control: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return CE recovered against the tokens of the training pool, per (model, layer, n, k, arm, d).

    Columns: reading, pool_tokens, mean, half_interval (95 %), seeds, what, and those of
    `analysis.tables.floor.with_floor`, the floor on a pool of the same size. The runs agree in every setting but the
    pool's size: per (model, layer, n) they have the settings under which there are the most sizes.

    Args:
        control: the runs that have the floor, where `everything` may lack it; None for `everything`.

    Raises:
        NoRunsError: no runs differ in the size of their pool alone.
    """
    found = _pools(everything)
    if found.empty:
        raise NoRunsError("no runs that differ only in the tokens of their training pool")
    # Cells trained on one pool, as most of the main sweep's are, would be points without a line.
    cell = [*CELL, "arm", "reading", "d"]
    several = where(found, distinct(found, cell, "pool_tokens") > 1)
    table = over_seeds(several, [*cell, "pool_tokens"], "ce_recovered")
    floors = found if control is None else _pools(control)
    return with_floor(table, floors, "ce_recovered", [*CELL, "pool_tokens"]).assign(what="ce_recovered")


def _pools(everything: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that differ in the size of their pool alone, no row where there are none."""
    kept: list[pd.DataFrame] = []
    others = everything.assign(but_pool=[_without_pool(text) for text in everything["settings"]])
    for _, panel in groups(others, MODEL_LAYER_N):
        sizes = panel.groupby("but_pool").agg(pools=("pool_tokens", "nunique"), runs=("run_id", "size"))
        best = sizes.sort_values(["pools", "runs"]).iloc[-1]
        if best["pools"] > 1:
            kept.append(only(panel, but_pool=best.name))
    return without_repeats(pd.concat(kept, ignore_index=True)) if kept else everything.iloc[:0]


def _without_pool(settings: str) -> str:
    return json.dumps({key: value for key, value in json.loads(settings).items() if key != _POOL}, sort_keys=True)
