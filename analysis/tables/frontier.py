"""The table of the storage-fidelity frontier: the fidelity of each arm at each storage."""

from __future__ import annotations

import pandas as pd

from analysis.arms import CONTROLS, DENSE, PCA, SPARSE
from analysis.frames import among, dicts, mean_by, part, plain, where
from analysis.tables.floor import with_floor
from analysis.tables.pairs import CELL, MODEL_LAYER_N, all_differences, retained
from analysis.tables.stats import over_seeds

X_AXES = {  # name: the column of runs that it shows, and the label of its axis
    "compression": ("decoder_compression", "compression: fewer decoder values than dense at the same n (times)"),
    "decoder_values": ("learned_decoder_values", "learned decoder values"),
    "stored_bytes": ("artifact_bytes", "stored bytes (size of sae.safetensors)"),
}
Y_AXES = {
    "ce_recovered": "cross-entropy recovered (zero ablation = 0, untouched LM = 1)",
    "ce_recovered_mean": "cross-entropy recovered (mean ablation = 0, untouched LM = 1)",
    "delta_ce": "added cross-entropy (nats/token)",
    "fvu": "fraction of variance unexplained",
}
REFERENCE_ARMS = DENSE  # they have no d, hence one point per k: a level to reach
_ALWAYS = ("expander", "dense_matched", "dense_tied", "dense_warmtied", PCA)


def frontier_table(
    runs: pd.DataFrame, x: str = "compression", y: str = "ce_recovered", control: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return one row per (model, layer, n, arm, k, storage), averaged over seeds.

    Columns: model, layer, n, arm, reading, k, d, d_in, degree, n_latents, x (the storage axis `x`, in its own units),
    mean and half_interval (95 %) of `y`, seeds, `retained` with its half interval and seeds: the mean over seeds of y
    divided by y of dense_tied at the same (model, layer, n, k, seed), NaN where there is none; and those of
    `analysis.tables.floor.with_floor`. PCA does not depend on k and stands at every k.

    Args:
        control: the runs that have the floor, where `runs` may lack it; None for `runs`.
    """
    control = runs if control is None else control
    column = X_AXES[x][0]
    runs = at_every_k(where(runs, runs[column].notna()))
    by = ["model", "layer", "n", "arm", "reading", "k", "d", "d_in", "degree", "n_latents", column]
    table = over_seeds(runs, by, y).merge(retained(runs, by, y), how="left", on=by)
    table = table.rename(columns={column: "x"}).sort_values(["model", "layer", "n", "arm", "k", "x"], ignore_index=True)
    return with_floor(table, control, y)


def at_every_k(runs: pd.DataFrame) -> pd.DataFrame:
    """Return `runs` with those of PCA repeated at every k of their (model, layer, n), because PCA has no k."""
    is_pca = runs["base_arm"] == PCA
    once = where(runs, is_pca).drop_duplicates([*MODEL_LAYER_N, "arm", "n_latents", "seed"])
    sparse = where(runs, ~is_pca)
    ks = part(sparse if len(sparse) else runs, CELL).drop_duplicates()
    tables: list[pd.DataFrame] = [sparse, once.drop(columns="k").merge(ks, on=MODEL_LAYER_N)]
    return pd.concat(tables, ignore_index=True)


def readable_arms(runs: pd.DataFrame) -> list[str]:
    """Return the arms that a figure shows by default: the expander, dense arms, PCA, and the best other support.

    The best other support has the highest mean paired difference to the expander over the cells that both have. Random
    dictionaries are none of these: figures draw them as the floor.
    """
    others = sorted(set(among(plain(runs), "arm", SPARSE)["arm"]) - {"expander", *CONTROLS})
    best: list[str] = []
    apart = all_differences(runs, others, ["expander"], "ce_recovered")
    if len(apart):
        means = mean_by(apart, ["arm"], ["mean"])
        best = [max(dicts(means), key=lambda row: row["mean"])["arm"]]
    elif len(among(runs, "arm", ["expander"])) == 0:
        best = others
    return [*_ALWAYS, *best]
