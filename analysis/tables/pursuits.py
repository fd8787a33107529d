"""What reading codes better is worth, what it costs, and what theory says of it: tables for four figures."""

from __future__ import annotations

import pandas as pd

from analysis.arms import PCA, base, parse
from analysis.frames import dicts, only, where
from analysis.read.sources import NoRunsError
from analysis.tables.stats import half_interval, over_seeds

CELL = ["model", "layer", "n", "k", "arm", "d", "degree", "n_latents", "decoder_compression", "learned_decoder_values"]


def amortisation_table(rows: pd.DataFrame, y: str = "ce_recovered") -> pd.DataFrame:
    """One row per cell and inference, seeds averaged: what each way of reading codes preserves, and at what cost.

    Columns: the cell (model, layer, n, k, arm, d, degree, n_latents, decoder_compression, learned_decoder_values),
    inference, mean and half_interval (95 %) of `y`, seeds, multiply_adds, tokens_per_second, and `gain` with
    `gain_half_interval`: the mean over seeds of the difference to the same run's own encoder (paired, not a difference
    of means).
    """
    by = [*CELL, "inference"]
    table = over_seeds(rows, by, y)
    own = rows.loc[rows["inference"] == "encoder"].set_index("run_id")[y]
    paired = rows.assign(gain=rows[y] - rows["run_id"].map(own))
    more = paired.groupby(by, dropna=False).agg(
        multiply_adds=("multiply_adds", "mean"),
        tokens_per_second=("tokens_per_second", "mean"),
        gain=("gain", "mean"),
        gain_half_interval=("gain", half_interval),
    )
    table = table.merge(more.reset_index(), on=by)
    return table.sort_values(by, ignore_index=True)


def readable_readings(table: pd.DataFrame, bases: list[str]) -> pd.DataFrame:
    """What a figure of readings shows by default: the arms `bases` (PCA has no codes to read), trained either way, not
    rounded; all there are where none of them is."""
    drawn = where(table, [base(arm) in bases and base(arm) != PCA and not parse(arm).bits for arm in table["arm"]])
    return table if drawn.empty else drawn


def throughput_table(rows: pd.DataFrame) -> pd.DataFrame:
    """As `amortisation_table`, of relative_error; only runs measured with as many threads as most."""
    threads = rows["threads"].mode().iloc[0]
    return amortisation_table(only(rows, threads=threads), "relative_error").assign(threads=threads)


def certificates_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, k', ratio (r_id, r_omp) and kind of sets (observed, random), seeds averaged.

    Columns: model, layer, n, k, arm, degree, `at` (k'), ratio, sets, mean, half_interval, seeds. Every value is a lower
    bound of the ratio.

    Raises:
        NoRunsError: no run's dictionary has a support.
    """
    found: list[dict[str, object]] = []
    for run in dicts(runs):
        curves = run["theory"].get("certificates")
        if not curves:
            continue
        cell = {key: run[key] for key in ("model", "layer", "n", "k", "arm", "degree", "seed")}
        for ratio in ("r_id", "r_omp"):
            for sets in ("observed", "random"):
                values = zip(curves["k"], curves[f"{ratio}_{sets}"], strict=True)
                found += [{**cell, "at": at, "ratio": ratio, "sets": sets, "value": value} for at, value in values]
    if not found:
        raise NoRunsError("no run has certificates: they are for sparse supports, recorded since runs keep theory")
    by = ["model", "layer", "n", "k", "arm", "degree", "at", "ratio", "sets"]
    return over_seeds(pd.DataFrame(found), by, "value")


def recovery_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per (d_in, n, mask, d, values, codes, noise, algorithm, k): each measure's mean over seeds, and seeds."""
    by = ["d_in", "n", "mask", "d", "values", "codes", "noise", "algorithm", "k"]
    measures = ["exact_recovery", "support_recovery", "code_error", "relative_residual", "tokens_per_second"]
    return rows.groupby(by).agg(**{m: (m, "mean") for m in measures}, seeds=("seed", "size")).reset_index()
