"""Tables about reading codes by pursuit: its gain and cost, its speed, its certificates, and synthetic recovery."""

from __future__ import annotations

import pandas as pd

from analysis.arms import DENSE, FROZEN, PCA, parse
from analysis.frames import among, dicts, only
from analysis.read.sources import NoRunsError
from analysis.tables.floor import with_floor
from analysis.tables.stats import half_interval, over_seeds

CELL = ["model", "layer", "n", "k", "arm", "d", "degree", "n_latents", "decoder_compression", "learned_decoder_values"]


def amortisation_table(rows: pd.DataFrame, y: str = "ce_recovered") -> pd.DataFrame:
    """Return the fidelity and the cost of each way of reading codes: one row per cell and inference, over seeds.

    Columns: the cell (model, layer, n, k, arm, d, degree, n_latents, decoder_compression, learned_decoder_values),
    inference, reading, mean and half_interval (95 %) of `y`, seeds, multiply_adds, tokens_per_second, `gain` with
    `gain_half_interval`: the mean over seeds of the difference to the same run's own encoder (paired, not a difference
    of means), and those of `analysis.tables.floor.with_floor`.
    """
    by = [*CELL, "inference", "reading"]
    table = over_seeds(rows, by, y)
    own = rows.loc[rows["inference"] == "encoder"].set_index("run_id")[y]
    paired = rows.assign(gain=rows[y] - rows["run_id"].map(own))
    more = paired.groupby(by, dropna=False).agg(
        multiply_adds=("multiply_adds", "mean"),
        tokens_per_second=("tokens_per_second", "mean"),
        gain=("gain", "mean"),
        gain_half_interval=("gain", half_interval),
    )
    table = table.merge(more.reset_index(), on=by).sort_values(by, ignore_index=True)
    return with_floor(table, rows, y)


def readable_readings(table: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    """Return the rows of `table` that a figure of readings shows by default, or all rows where there are none of these.

    They are of the arms `labels`, and of random and full dense dictionaries trained in the same ways; PCA has no codes
    to read.
    """
    pursuits = {arm.pursuit for arm in map(parse, labels) if arm.base == "expander" and arm.pursuit}
    trained = [f"{arm}+{pursuit}" for pursuit in sorted(pursuits) for arm in (FROZEN, *DENSE)]
    drawn = among(table, "arm", [label for label in (*labels, FROZEN, *trained) if label != PCA])
    return table if drawn.empty else drawn


def throughput_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `amortisation_table` of relative_error, of the rows measured with the most common number of threads.

    The column `threads` holds that number.
    """
    threads = rows["threads"].mode().iloc[0]
    return amortisation_table(only(rows, threads=threads), "relative_error").assign(threads=threads)


def certificates_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the certificates' ratios: one row per cell, k', ratio (r_id, r_omp) and kind of sets (observed, random).

    Columns: model, layer, n, k, arm, degree, `at` (k', the sparsity of the codes that the ratio is about), ratio, sets,
    mean, half_interval (95 %), seeds. Every value is a lower bound of the ratio.

    Raises:
        NoRunsError: no run's dictionary has a sparse support, or no record keeps its ratios.
    """
    found: list[dict[str, object]] = []
    for run in dicts(runs):
        curves = run["theory"].get("certificates")
        if not curves:
            continue
        cell = {key: run[key] for key in ("model", "layer", "n", "k", "arm", "degree", "seed")}
        for ratio in ("r_id", "r_omp"):
            for sets in ("observed", "random"):
                kind = {"ratio": ratio, "sets": sets}
                values = zip(curves["k"], curves[f"{ratio}_{sets}"], strict=True)
                found += [{**cell, **kind, "at": at, "value": value} for at, value in values]
    if not found:
        raise NoRunsError(
            "no run has certificates: only sparse supports have them, and runs of early versions kept none"
        )
    by = ["model", "layer", "n", "k", "arm", "degree", "at", "ratio", "sets"]
    return over_seeds(pd.DataFrame(found), by, "value")


def recovery_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each measure's mean over seeds, and seeds: one row per (d_in, n, mask, d, values, codes, noise, algorithm,
    k)."""
    by = ["d_in", "n", "mask", "d", "values", "codes", "noise", "algorithm", "k"]
    measures = ["exact_recovery", "support_recovery", "code_error", "relative_residual", "tokens_per_second"]
    return rows.groupby(by).agg(**{m: (m, "mean") for m in measures}, seeds=("seed", "size")).reset_index()
