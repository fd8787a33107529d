"""The storage-fidelity frontier: what each arm preserves at each storage."""

from __future__ import annotations

import pandas as pd

from analysis.arms import DENSE, PCA, SPARSE, base, plain
from analysis.frames import among, dicts, mean_by, part, where
from analysis.tables.pairs import CELL, PANEL, all_differences, retained
from analysis.tables.stats import over_seeds

X_AXES = {
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
REFERENCE_ARMS = DENSE  # ignore d: one point per k, a level to reach
_ALWAYS = ("expander", "dense_matched", "dense_tied", "dense_warmtied", PCA)


def frontier_table(runs: pd.DataFrame, x: str = "compression", y: str = "ce_recovered") -> pd.DataFrame:
    """One row per (model, layer, n, arm, k, storage), seeds averaged.

    Columns: model, layer, n, arm, k, d, x (in the units of `x`), mean and half_interval (95 %) of `y`, seeds, and
    `retained` with its half interval and seeds: the mean over seeds of y divided by that of dense_tied at the same
    (model, layer, n, k, seed), NaN where there is none. PCA depends on no k and stands at each one.
    """
    column = X_AXES[x][0]
    runs = at_every_k(where(runs, runs[column].notna()))
    by = ["model", "layer", "n", "arm", "k", "d", "d_in", "degree", "n_latents", column]
    table = over_seeds(runs, by, y).merge(retained(runs, by, y), how="left", on=by)
    return table.rename(columns={column: "x"}).sort_values(["model", "layer", "n", "arm", "k", "x"], ignore_index=True)


def at_every_k(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with those of PCA repeated at every k of their panel: their number of components is not k."""
    of_pca = runs["arm"].map(base) == PCA
    once = where(runs, of_pca).drop_duplicates([*PANEL, "arm", "n_latents", "seed"])
    sparse = where(runs, ~of_pca)
    ks = part(sparse if len(sparse) else runs, CELL).drop_duplicates()
    tables: list[pd.DataFrame] = [sparse, once.drop(columns="k").merge(ks, on=PANEL)]
    return pd.concat(tables, ignore_index=True)


def readable_arms(runs: pd.DataFrame) -> list[str]:
    """What a figure shows by default: expander, the dense arms beside it, PCA, and the best other support: the one
    with the highest mean paired difference to the expander over their cells."""
    others = [arm for arm in set(runs["arm"]) if plain(arm) and arm in SPARSE and arm != "expander"]
    best: list[str] = []
    apart = all_differences(runs, sorted(others), ["expander"], "ce_recovered")
    if len(apart):
        means = mean_by(apart, ["arm"], ["mean"])
        best = [max(dicts(means), key=lambda row: row["mean"])["arm"]]
    elif len(among(runs, "arm", ["expander"])) == 0:
        best = sorted(others)
    return [*_ALWAYS, *best]
