"""The measures of every cell beside those that the paper published, and the choice of three degrees."""

from __future__ import annotations

import pandas as pd

from analysis.frames import groups, sorted_by_arm
from analysis.tables.floor import with_floor
from analysis.tables.pairs import CELL, retained
from analysis.tables.published import beside
from analysis.tables.stats import over_seeds

_BY = [*CELL, "arm", "reading", "d", "n_latents", "decoder_compression"]
_MEASURES = ["relative_error", "ce_recovered", "dead_fraction"]


def measured(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (model, layer, n, k, arm, d, n_latents), averaged over seeds.

    Columns: relative_error, ce_recovered and dead_fraction with their 95 % half intervals, seeds, `retained` (see
    `analysis.tables.pairs`), the floor of CE recovered (`analysis.tables.floor.with_floor`), and the paper's means of
    the same cell as `published_<measure>`.
    """
    runs = runs.assign(**{name: float("nan") for name in _MEASURES if name not in runs})
    table = over_seeds(runs, _BY, _MEASURES[0])[[*_BY, "seeds"]]
    for name in _MEASURES:
        renamed = {"mean": name, "half_interval": f"{name}_half_interval"}
        table = table.merge(over_seeds(runs, _BY, name).drop(columns="seeds").rename(columns=renamed), on=_BY)
    table = table.merge(retained(runs, _BY, "ce_recovered"), how="left", on=_BY)
    table = with_floor(table, runs, "ce_recovered", mean="ce_recovered", half="ce_recovered_half_interval")
    return sorted_cells(beside(table.assign(inference="encoder"), _MEASURES))


def three_degrees(table: pd.DataFrame, panel_by: list[str]) -> pd.Series:
    """Return for each row whether its d is the smallest, the middle or the largest d in its group of `panel_by`."""
    keep = pd.Series(False, index=table.index)
    for _, panel in groups(table, panel_by):
        degrees = sorted(panel["d"].dropna().unique())
        three = {degrees[0], degrees[len(degrees) // 2], degrees[-1]} if degrees else set()
        keep.loc[panel.index] = panel["d"].isin(list(three))
    return keep


def sorted_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` sorted by cell, then in the order of `analysis.arms`, then by size."""
    return sorted_by_arm(table, CELL, ["d", "n_latents"])
