"""The cells that the paper published, under this project's names and one formula.

They are in `data/published_cells.csv`, which says where each number is from.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd

from analysis.frames import among, dicts, groups, mean_by, only, part, renamed
from analysis.read.load import data_file

POOL = 200_000  # tokens of the training pool; the paper's smaller pools are for its learning curves
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
    """Return the paper's cells, one row per KEY.

    Columns: relative_error, dead_fraction and ce_recovered, each the mean over seeds (several values of one seed are
    averaged first), `n_latents`, `compression` (m*n / decoder values) and `seeds`. `d` is NaN where all n latents are
    dense.

    A dense SAE with fewer latents has a row under every name that its size has in this project: n' = d*n/m is
    `dense_matched`, or `dense_matched_own` where it has an encoder of its own; n' = d*n/2m is then also
    `dense_matched_own_parameters`.
    """
    with data_file("published_cells.csv").open() as stream:
        cells = pd.read_csv(stream, comment="#")
    cells = among(only(cells, data_budget=POOL), "inference", list(_INFERENCES))
    cells = renamed(cells.assign(inference=[_INFERENCES[name] for name in cells["inference"]]), _MEASURES)
    size = ["model", "layer", "arch", "m", "n", "d", "k", "inference"]
    measures = list(_MEASURES.values())
    by_seed = mean_by(cells, [*size, "seed"], measures)
    means = {name: (name, "mean") for name in measures}
    return _under_our_names(by_seed.groupby(size).agg(**means, seeds=("seed", "size")).reset_index())


def beside(table: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Return `table`, which has the columns KEY, with `published_<measure>`, NaN where the paper has no such cell."""
    of_paper = renamed(part(published(), [*KEY, *measures]), {name: f"published_{name}" for name in measures})
    return table.merge(of_paper, how="left", on=KEY)


def any_beside(table: pd.DataFrame) -> bool:
    """Return whether any row of `table` has a cell of the paper beside it."""
    columns = [name for name in table.columns if name.startswith("published_")]
    return bool(table[columns].notna().to_numpy().any()) if columns else False


def _under_our_names(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with `arm`, `d` and `n` as this project names them."""
    expanders = only(cells, arch="expander_tied")
    degrees = {key: sorted(set(rows["d"])) for key, rows in groups(expanders, ["model", "n"])}
    rows: list[dict[str, object]] = []
    for cell in dicts(cells):
        n = 8 * cell["m"]  # the paper has no other n
        for arm, d in _names(cell["arch"], cell["n"], cell["m"], n, cell["d"], degrees[cell["model"], n]):
            compression = cell["m"] * n / (cell["n"] * cell["d"])
            rows.append({**cell, "arm": arm, "d": d, "n": n, "n_latents": cell["n"], "compression": compression})
    return pd.DataFrame(rows).drop(columns=["arch", "m"]).sort_values(KEY, ignore_index=True)


def _names(arch: str, n_latents: int, m: int, n: int, d: int, degrees: list[int]) -> list[tuple[str, float]]:
    """Return every (arm, d) that names a cell of the paper in this project.

    Args:
        arch, n_latents, m, d: the paper's name of the arm and its sizes.
        n: the number of latents that the dense SAE of this LM has.
        degrees: every d of the paper's expanders of this LM.
    """
    if not arch.startswith("dense_"):
        return [(_ARMS[arch], float(d))]
    if n_latents == n:
        return [(arch, np.nan)]
    if arch == "dense_randinit":  # this project has no small dense arm that starts at random
        return []
    equal_values = [float(d) for d in degrees if round(d * n / m) == n_latents]
    if arch == "dense_tied":
        return [("dense_matched", d) for d in equal_values]
    equal_parameters = [float(d) for d in degrees if round(d * n / (2 * m)) == n_latents]
    return [("dense_matched_own", d) for d in equal_values] + [
        ("dense_matched_own_parameters", d) for d in equal_parameters
    ]
