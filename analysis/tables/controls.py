"""Tables of the controls: masks, supports, matched dense SAEs, rounding, layers, seeds. A row names what it measures in
`what`, so that one table holds all panels of a figure."""

from __future__ import annotations

import pandas as pd

from analysis.arms import MATCHED, SPARSE, base, parse, plain, unrounded
from analysis.frames import among, distinct, mean_by, where
from analysis.read.sources import NoRunsError
from analysis.tables.pairs import CELL, all_differences
from analysis.tables.stats import half_interval, over_seeds

MASKS = ("expander", "clustered", "pruned_retuned")
ENOUGH_SEEDS = 5  # below that an interval of a spread says little
_BY = [*CELL, "arm", "d"]


def masks_table(runs: pd.DataFrame) -> pd.DataFrame:
    """CE recovered and dead fraction per (model, layer, n, k, arm, d) of the support arms in `runs`.

    Columns: those, what, mean, half_interval (95 %), seeds, and train_tokens: all that were trained on, those of the
    SAE that a support was taken from included.

    Raises:
        NoRunsError: fewer than two such arms.
    """
    found = _at_least_two(among(runs, "arm", MASKS), "support arms (expander, clustered, pruned_retuned)")
    return _measures(found, ["ce_recovered", "dead_fraction"])


def supports_table(runs: pd.DataFrame) -> pd.DataFrame:
    """CE recovered of every sparse arm in `runs` (columns as `masks_table`), and below it `what` = "difference": its
    mean paired difference to the expander of the same cell and seed.

    Raises:
        NoRunsError: fewer than two such arms.
    """
    found = _at_least_two(among(runs, "arm", SPARSE), "support arms")
    apart = all_differences(found, sorted(set(found["arm"])), ["expander"], "ce_recovered")
    return pd.concat([_measures(found, ["ce_recovered"]), apart.assign(what="difference")], ignore_index=True)


def matched_table(readings: pd.DataFrame) -> pd.DataFrame:
    """The expander against dense SAEs of equal values, parameters or bytes: the mean paired difference in CE recovered,
    expander minus dense, per cell (model, layer, n, k, d) and `what`: the one-shot encoder, OMP, or both trained by the
    same pursuit and read by it.

    Raises:
        NoRunsError: no such pair.
    """
    tables = [_against_matched(found, what) for what, found in _ways(readings)]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise NoRunsError(
            "no expander and dense_matched run share a cell; python -m sweep -m sae=expander,dense_matched"
        )
    return pd.concat(tables, ignore_index=True)


def _ways(readings: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    one_shot = where(readings, [plain(arm) for arm in readings["arm"]])
    ways = [
        ("difference by the trained encoder", among(one_shot, "inference", ["encoder"])),
        ("difference by OMP", among(one_shot, "inference", ["omp"])),
    ]
    own = among(readings, "inference", ["encoder"])
    pursuits = sorted({p.pursuit for p in map(parse, set(readings["arm"])) if p.pursuit})
    for pursuit in pursuits:
        of_pursuit = where(own, [parse(arm)[1:] == (pursuit, None) for arm in own["arm"]])
        named = of_pursuit.assign(arm=[base(arm) for arm in of_pursuit["arm"]])
        ways.append((f"difference, both trained by {pursuit}", named))
    return ways


def _against_matched(found: pd.DataFrame, what: str) -> pd.DataFrame:
    matched = [arm for arm in MATCHED if arm in set(found["arm"])]
    table = all_differences(found, ["expander"], matched, "ce_recovered")
    # The dense arm is the line: what it is compared with is the same for all.
    return table.rename(columns={"arm": "minus_from", "other": "arm"}).assign(what=what) if len(table) else table


def bits_table(runs: pd.DataFrame) -> pd.DataFrame:
    """CE recovered against artifact_bytes per (model, layer, n, k, arm, d), of arms that were rounded and their float32
    runs; `base`: the arm without bits, `bits`: 32, 8 or 4.

    Raises:
        NoRunsError: no run with rounded values.
    """
    labels = {arm: parse(arm) for arm in set(runs["arm"])}
    rounded = {label._replace(bits=None) for label in labels.values() if label.bits}
    if not rounded:
        raise NoRunsError("no run has rounded values (arms such as expander-8bit)")
    found = where(runs, [labels[arm]._replace(bits=None) in rounded for arm in runs["arm"]])
    found = found.assign(
        base=[unrounded(arm) for arm in found["arm"]], bits=[labels[arm].bits or 32 for arm in found["arm"]]
    )
    table = over_seeds(found, [*_BY, "base", "bits", "artifact_bytes"], "ce_recovered")
    return table.assign(what="ce_recovered")


def layers_table(runs: pd.DataFrame) -> pd.DataFrame:
    """CE recovered per (model, n, k, arm, d, layer) of the models that have runs at two layers or more.

    Raises:
        NoRunsError: no model has.
    """
    return _measures(at_several_layers(runs), ["ce_recovered"])


def at_several_layers(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of models that have some at two layers or more. Raises NoRunsError where no model has."""
    found = where(runs, distinct(runs, ["model"], "layer") > 1)
    if found.empty:
        raise NoRunsError("no model has runs at two layers; python -m sweep -m layer=0,1 makes some")
    return found


def seeds_table(runs: pd.DataFrame) -> pd.DataFrame:
    """CE recovered per (model, layer, n, k, arm, d, n_latents): mean, its 95 % half_interval, standard_deviation over
    seeds, least, most, seeds; the last column but for those of ENOUGH_SEEDS or more is NaN for half_interval.

    Raises:
        NoRunsError: no cell has ENOUGH_SEEDS.
    """
    grouped = runs.groupby([*_BY, "n_latents"], dropna=False)["ce_recovered"]
    table = grouped.agg(
        mean="mean", half_interval=half_interval, standard_deviation="std", least="min", most="max", seeds="size"
    ).reset_index()
    if max(table["seeds"]) < ENOUGH_SEEDS:
        raise NoRunsError(f"no cell has {ENOUGH_SEEDS} seeds; python -m sweep -m seed=0,1,2,3,4 makes some")
    table["half_interval"] = table["half_interval"].where(table["seeds"] >= ENOUGH_SEEDS)
    return table


def _measures(runs: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    cost = mean_by(runs, _BY, ["train_tokens"])
    tables = [over_seeds(runs, _BY, measure).assign(what=measure) for measure in measures]
    return pd.concat(tables, ignore_index=True).merge(cost, on=_BY)


def _at_least_two(runs: pd.DataFrame, what: str) -> pd.DataFrame:
    if len(set(runs["arm"])) < 2:
        raise NoRunsError(f"runs of fewer than two {what}")
    return runs
