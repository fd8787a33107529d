"""Tables of what changes with training: learning curves, and data efficiency over pools of different size."""

from __future__ import annotations

import json

import pandas as pd

from analysis.frames import dicts, distinct, groups, only, where
from analysis.read.comparable import without_repeats
from analysis.read.sources import NoRunsError
from analysis.tables.pairs import CELL, PANEL
from analysis.tables.stats import over_seeds

_POOL = "activations.tokens"
_CURVES = ("fvu", "dead_fraction")  # in the order of their panels


def learning_table(runs: pd.DataFrame) -> pd.DataFrame:
    """FVU and dead fraction against training tokens per (model, layer, n, k, arm, d, tokens): what, mean,
    half_interval (95 %), seeds.

    Raises:
        NoRunsError: no record has curves.
    """
    rows: list[dict[str, object]] = []
    for run in dicts(runs):
        curves = run["curves"]
        cell = {key: run[key] for key in (*CELL, "arm", "d", "seed")}
        for what in _CURVES:
            points = zip(curves.get("tokens", ()), curves.get(what, ()), strict=False)
            rows += [{**cell, "what": what, "tokens": at, "value": value} for at, value in points if value is not None]
    if not rows:
        raise NoRunsError("no record has learning curves: they are kept by runs of this version")
    table = over_seeds(pd.DataFrame(rows), [*CELL, "arm", "d", "what", "tokens"], "value")
    return pd.concat([only(table, what=what) for what in _CURVES], ignore_index=True)


def main_degrees(table: pd.DataFrame) -> pd.DataFrame:
    """Of each (model, layer, n, k) the rows of one d, that of most arms (the middle one of several), and of arms
    without d: a figure of every d would hide its arms."""
    kept: list[pd.DataFrame] = []
    for _, panel in groups(table, CELL):
        arms_at = {d: len(set(rows["arm"])) for (d,), rows in groups(panel.dropna(subset=["d"]), ["d"])}
        most = [d for d, count in arms_at.items() if count == max(arms_at.values())]
        d = most[len(most) // 2] if most else None
        kept.append(where(panel, panel["d"].isna() | (panel["d"] == d)))
    return pd.concat(kept, ignore_index=True)


def data_table(everything: pd.DataFrame) -> pd.DataFrame:
    """CE recovered against the tokens of the training pool per (model, layer, n, k, arm, d): mean, 95 %
    half_interval, seeds. Runs that agree in every other setting; per (model, layer, n) those settings with most sizes.

    Raises:
        NoRunsError: no settings with two pool sizes.
    """
    kept: list[pd.DataFrame] = []
    others = everything.assign(but_pool=[_without_pool(text) for text in everything["settings"]])
    for _, panel in groups(others, PANEL):
        sizes = panel.groupby("but_pool").agg(pools=("pool_tokens", "nunique"), runs=("run_id", "size"))
        best = sizes.sort_values(["pools", "runs"]).iloc[-1]
        if best["pools"] > 1:
            kept.append(only(panel, but_pool=best.name))
    if not kept:
        raise NoRunsError("no runs that differ only in the tokens of their training pool")
    found = without_repeats(pd.concat(kept, ignore_index=True))
    # Only what was trained on several pools: the main sweep's other cells are points without a line.
    cell = [*CELL, "arm", "d"]
    several = where(found, distinct(found, cell, "pool_tokens") > 1)
    table = over_seeds(several, [*cell, "pool_tokens"], "ce_recovered")
    return table.assign(what="ce_recovered")


def _without_pool(settings: str) -> str:
    return json.dumps({key: value for key, value in json.loads(settings).items() if key != _POOL}, sort_keys=True)
