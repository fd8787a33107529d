"""The table of the storage-fidelity frontier: the fidelity of each arm at each storage."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from analysis.arms import BATCH_TOPK, CONTROLS, DENSE, FLOAT_BITS, PCA, SPARSE, parse
from analysis.frames import among, dicts, groups, part, where
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
_ONE_SHOT = ("expander", "dense_matched", *DENSE[:2], PCA)
_BY_PURSUIT = ("expander", "dense_matched")


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
    """Return the arms that a figure shows by default, which answer what preserves the most at a given size.

    They are the expander and dense dictionaries of as many values, each trained one-shot and by the pursuit that
    trained most expanders; the full dense dictionaries; PCA; and the best other sparse arm. That one has the highest
    mean in the cell (model, layer, n, k, d) that most of these arms share with the one-shot expander. Random
    dictionaries are none of these: figures draw them as the floor.
    """
    always = [*_ONE_SHOT, *(f"{arm}+{pursuit}" for pursuit in _main_pursuit(runs) for arm in _BY_PURSUIT)]
    sparse = where(
        runs, runs["base_arm"].isin(SPARSE) & ~runs["base_arm"].isin(CONTROLS) & (runs["bits"] == FLOAT_BITS)
    )
    others = [arm for arm in sorted(set(sparse["arm"])) if _unlike_expander(arm)]
    best: list[str] = []
    apart = all_differences(runs, others, ["expander"], "ce_recovered")
    if len(apart):
        _, together = max(groups(apart, [*CELL, "d"]), key=lambda cell: len(cell[1]))
        best = [max(dicts(together), key=lambda row: row["mean"])["arm"]]
    elif len(among(runs, "arm", ["expander"])) == 0:
        best = others
    return [*always, *best]


def _main_pursuit(runs: pd.DataFrame) -> list[str]:
    """Return the pursuit that trained most expanders, the first by name of those that trained as many; or none."""
    names = [parse(arm) for arm in among(runs, "base_arm", ["expander"])["arm"]]
    names = [arm for arm in names if arm.pursuit != BATCH_TOPK]
    counts = Counter(arm.pursuit for arm in names if arm.pursuit and not arm.basis and not arm.bits)
    return sorted(counts, key=lambda name: (-counts[name], name))[:1]


def _unlike_expander(label: str) -> bool:
    """Return whether more than the encoder sets an arm apart from the expander: its support or its basis."""
    arm = parse(label)
    return arm.base != "expander" or arm.basis is not None
