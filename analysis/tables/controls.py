"""Tables of the controls: masks, supports, matched dense SAEs, layers, seeds.

The column `what` names the measure of a row, so that one table holds all panels of a figure.
"""

from __future__ import annotations

import math

import pandas as pd

from analysis.arms import FLOAT_BITS, FROZEN, MATCHED, SPARSE
from analysis.frames import among, distinct, mean_by, only, part, plain, renamed, where
from analysis.read.sources import NoRunsError
from analysis.tables.floor import MINUS_FROM, with_floor
from analysis.tables.pairs import CELL, all_differences
from analysis.tables.stats import half_interval, over_seeds

MASKS = ("expander", "clustered", "pruned_retuned")
ENOUGH_SEEDS = 5  # an interval over fewer seeds says little
_BY = [*CELL, "arm", "reading", "d"]


def masks_table(runs: pd.DataFrame, control: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return CE recovered and dead fraction per (model, layer, n, k, arm, d) of the support arms in `runs`.

    Columns: model, layer, n, k, arm, reading, d, what, mean, half_interval (95 %), seeds, those of
    `analysis.tables.floor.with_floor`, and train_tokens: the tokens trained on, including those of the SAE that a
    support was taken from.

    Args:
        control: the runs that have the floor, where `runs` may lack it; None for `runs`. So in every table here.

    Raises:
        NoRunsError: `runs` has fewer than two of these arms.
    """
    found = _at_least_two(among(runs, "arm", MASKS), "support arms (expander, clustered, pruned_retuned)")
    return _measures(found, ["ce_recovered", "dead_fraction"], runs if control is None else control)


def supports_table(runs: pd.DataFrame, control: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return CE recovered of every sparse arm in `runs`, with the columns of `masks_table`.

    Below follow rows with `what` = "difference": the mean paired difference to the expander of the same cell and seed.

    Raises:
        NoRunsError: `runs` has fewer than two sparse arms.
    """
    found = _at_least_two(among(runs, "arm", SPARSE), "support arms")
    apart = all_differences(found, sorted(set(found["arm"])), ["expander"], "ce_recovered")
    measures = _measures(found, ["ce_recovered"], runs if control is None else control)
    return pd.concat([measures, apart.assign(what="difference")], ignore_index=True)


def matched_table(readings: pd.DataFrame, control: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return how much more CE the expander recovers than dense SAEs of equal values, parameters or bytes.

    One row per cell (model, layer, n, k, d), dense arm (`arm`) and `what`, the way of reading: the one-shot encoder,
    OMP, or the pursuit that trained both. The difference, expander minus dense, is paired by seed. `floor` and
    `floor_half_interval` are the same difference with a random dictionary in the expander's place.

    Raises:
        NoRunsError: no expander shares a cell with such a dense SAE.
    """
    controls = dict(_ways_of_reading(readings if control is None else control))
    tables = [_against_matched(found, controls[what], what) for what, found in _ways_of_reading(readings)]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise NoRunsError(
            "no expander and dense_matched run share a cell; python -m sweep -m sae=expander,dense_matched"
        )
    return pd.concat(tables, ignore_index=True)


def _ways_of_reading(readings: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return (`what`, readings) for each way of reading in which the expander is compared."""
    one_shot = plain(readings)
    ways = [
        ("difference by the trained encoder", among(one_shot, "inference", ["encoder"])),
        ("difference by OMP", among(one_shot, "inference", ["omp"])),
    ]
    for pursuit in sorted(set(readings["pursuit"]) - {""}):
        trained = only(readings, inference="encoder", pursuit=pursuit, bits=FLOAT_BITS)
        ways.append((f"difference, both trained by {pursuit}", trained.assign(arm=trained["base_arm"])))
    return ways


def _against_matched(found: pd.DataFrame, control: pd.DataFrame, what: str) -> pd.DataFrame:
    matched = [arm for arm in MATCHED if arm in set(found["arm"])]
    table = all_differences(found, ["expander"], matched, "ce_recovered")
    if table.empty:
        return table
    floors = all_differences(control, [FROZEN], matched, "ce_recovered")
    if len(floors):
        on = [*CELL, "d", "other"]
        floors = renamed(floors, {"mean": "floor", "half_interval": "floor_half_interval"})
        table = table.merge(part(floors, [*on, "floor", "floor_half_interval"]), how="left", on=on)
    else:
        table = table.assign(floor=math.nan, floor_half_interval=math.nan)
    # The dense arm becomes `arm`, which makes a figure's lines: the expander is the same in all rows.
    return renamed(table, {"arm": MINUS_FROM, "other": "arm"}).assign(what=what)


def layers_table(runs: pd.DataFrame, control: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return CE recovered per (model, n, k, arm, d, layer) of the models that have runs at two layers or more.

    Raises:
        NoRunsError: no model has runs at two layers.
    """
    return _measures(at_several_layers(runs), ["ce_recovered"], runs if control is None else control)


def at_several_layers(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of models that have runs at two layers or more. Raises NoRunsError where no model has."""
    found = where(runs, distinct(runs, ["model"], "layer") > 1)
    if found.empty:
        raise NoRunsError("no model has runs at two layers; python -m sweep -m layer=0,1 makes some")
    return found


def seeds_table(runs: pd.DataFrame, control: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return how CE recovered spreads over the seeds of each cell (model, layer, n, k, arm, d, n_latents).

    Columns: mean, its 95 % half_interval, standard_deviation, least, most, seeds, and those of
    `analysis.tables.floor.with_floor`; half_interval is NaN in cells of fewer than ENOUGH_SEEDS seeds.

    Raises:
        NoRunsError: no cell has ENOUGH_SEEDS seeds.
    """
    grouped = runs.groupby([*_BY, "n_latents"], dropna=False)["ce_recovered"]
    table = grouped.agg(
        mean="mean", half_interval=half_interval, standard_deviation="std", least="min", most="max", seeds="size"
    ).reset_index()
    if max(table["seeds"]) < ENOUGH_SEEDS:
        raise NoRunsError(f"no cell has {ENOUGH_SEEDS} seeds; python -m sweep -m seed=0,1,2,3,4 makes some")
    table = with_floor(table, runs if control is None else control, "ce_recovered")
    table["half_interval"] = table["half_interval"].where(table["seeds"] >= ENOUGH_SEEDS)
    return table


def _measures(runs: pd.DataFrame, measures: list[str], control: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds of each measure beside its floor, one below the other, with the tokens trained on."""
    cost = mean_by(runs, _BY, ["train_tokens"])
    tables = [with_floor(over_seeds(runs, _BY, one), control, one).assign(what=one) for one in measures]
    return pd.concat(tables, ignore_index=True).merge(cost, on=_BY)


def _at_least_two(runs: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return `runs`. Raises NoRunsError where they are of fewer than two arms; `kind` names these for the message."""
    if len(set(runs["arm"])) < 2:
        raise NoRunsError(f"there are runs of fewer than two {kind}")
    return runs
