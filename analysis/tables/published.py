"""The paper's own cells, under this project's names and one formula: `data/published_cells.csv` says whence."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from analysis.frames import among, dicts, mean_by, only, part, renamed
from analysis.read.load import data_file

POOL = 200_000  # tokens; the paper's smaller pools are for its learning curves
FORMULA = "(ce_zero - ce_sae)/(ce_zero - ce_clean)"
NOTE = (
    f"Published: arXiv 2607.01799, pool of {POOL:,} tokens, CE recovered recomputed as {FORMULA};"
    " measured on windows that were training text too, ours on held-out documents."
)
KEY = ["model", "layer", "n", "arm", "d", "k", "inference"]
_ARMS = {"expander_tied": "expander", "clustered_sparse": "clustered", "pruned_retuned_dense": "pruned_retuned"}
_INFERENCES = {"encoder": "encoder", "ce_encoder": "encoder", "omp": "omp"}
_MEASURES = {"rel_err": "relative_error", "dead_frac": "dead_fraction", "ce_recovered": "ce_recovered"}


@cache
def published() -> pd.DataFrame:
    """One row per KEY: relative_error, dead_fraction and ce_recovered, the mean over seeds (those of one seed are
    averaged first), `n_latents`, `compression` (m*n / decoder values) and `seeds`. `d` is NaN where all n latents are
    dense.

    A dense SAE with fewer latents stands once under every name that its size has here: n' = d*n/m is `dense_matched`,
    with an own encoder `dense_matched_own`, and n' = d*n/2m then also `dense_matched_own_parameters`.
    """
    with data_file("published_cells.csv").open() as stream:
        cells = pd.read_csv(stream, comment="#")
    cells = among(only(cells, data_budget=POOL), "inference", list(_INFERENCES))
    cells = renamed(cells.assign(inference=[_INFERENCES[name] for name in cells["inference"]]), _MEASURES)
    size = ["model", "layer", "arch", "m", "n", "d", "k", "inference"]
    measures = list(_MEASURES.values())
    by_seed = mean_by(cells, [*size, "seed"], measures)
    means = {name: (name, "mean") for name in measures}
    return _named(by_seed.groupby(size).agg(**means, seeds=("seed", "size")).reset_index())


def beside(table: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """`table` (with the columns of KEY) and `published_<measure>`, NaN where the paper has no such cell."""
    theirs = renamed(part(published(), [*KEY, *measures]), {name: f"published_{name}" for name in measures})
    return table.merge(theirs, how="left", on=KEY)


def any_beside(table: pd.DataFrame) -> bool:
    """Whether `beside` found a cell of the paper's."""
    columns = [name for name in table.columns if name.startswith("published_")]
    return bool(table[columns].notna().to_numpy().any()) if columns else False


def _named(cells: pd.DataFrame) -> pd.DataFrame:
    degrees = {
        key: sorted(set(rows["d"])) for key, rows in cells[cells["arch"] == "expander_tied"].groupby(["model", "n"])
    }
    rows: list[dict[str, object]] = []
    for cell in dicts(cells):
        n = 8 * cell["m"]  # the paper's, throughout
        for arm, d in _names(cell["arch"], cell["n"], cell["m"], n, cell["d"], degrees[cell["model"], n]):
            compression = cell["m"] * n / (cell["n"] * cell["d"])
            rows.append({**cell, "arm": arm, "d": d, "n": n, "n_latents": cell["n"], "compression": compression})
    return pd.DataFrame(rows).drop(columns=["arch", "m"]).sort_values(KEY, ignore_index=True)


def _names(arch: str, n_latents: int, m: int, n: int, d: int, degrees: list[int]) -> list[tuple[str, float]]:
    """(arm, d) under which a cell of the paper's stands here."""
    if not arch.startswith("dense_"):
        return [(_ARMS[arch], float(d))]
    if n_latents == n:
        return [(arch, np.nan)]
    if arch == "dense_randinit":  # no arm here starts a small one at random
        return []
    equal_values = [float(d) for d in degrees if round(d * n / m) == n_latents]
    if arch == "dense_tied":
        return [("dense_matched", d) for d in equal_values]
    equal_parameters = [float(d) for d in degrees if round(d * n / (2 * m)) == n_latents]
    return [("dense_matched_own", d) for d in equal_values] + [
        ("dense_matched_own_parameters", d) for d in equal_parameters
    ]
