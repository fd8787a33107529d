"""The storage-fidelity frontier: what each arm preserves at each storage."""

from __future__ import annotations

import pandas as pd

from analysis.stats import over_seeds

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
REFERENCE_ARMS = ("dense_tied", "dense_warmtied", "dense_randinit")  # ignore d: one point per k, a level to reach


def frontier_table(runs: pd.DataFrame, x: str = "compression", y: str = "ce_recovered") -> pd.DataFrame:
    """One row per (model, layer, n, arm, k, storage), seeds averaged.

    Columns: model, layer, n, arm, k, x (in the units of `x`), mean and half_interval (95 %) of `y`, seeds, and
    `retained`, mean divided by that of dense_tied at the same (model, layer, n, k), NaN where there is none.
    """
    column = X_AXES[x][0]
    table = over_seeds(runs, ["model", "layer", "n", "arm", "k", "d_in", "degree", "n_latents", column], y)
    table = table.rename(columns={column: "x"})
    cell = ["model", "layer", "n", "k"]
    dense = table.loc[table["arm"] == "dense_tied", [*cell, "mean"]].rename(columns={"mean": "dense"})
    table["retained"] = table["mean"] / table.merge(dense, how="left", on=cell)["dense"]
    return table.sort_values(["model", "layer", "n", "arm", "k", "x"], ignore_index=True)
