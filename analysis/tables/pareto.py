"""The Pareto set: the runs that no other run of the same (model, layer) beats, whatever their k, n, d, arm or recipe.

What a search leaves is runs whose k, n, d and learning rate all differ: no cell has a second seed, so each run is a
point of its own and nothing is averaged. The best of many single runs is a lucky one in part: train what you pick again
with other seeds. PCA stands beside the others and is never in the set, as it is not sparse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.arms import PCA, base
from analysis.frames import column, groups, part
from analysis.read.comparable import measured_alike
from analysis.read.sources import NoRunsError
from analysis.tables.frontier import X_AXES

PLACE = ["model", "layer"]
X_DOWN = ("stored_bytes", "decoder_values")  # less of it is better
Y_DOWN = ("delta_ce", "fvu")
_ALWAYS = ["model", "run_id", "arm", "d", "k", "n", "n_latents", "layer", "seed"]
_OF_ALL_RUNS = ("activations.layer", "activations.lm", "activations.corpus")


def pareto_table(everything: pd.DataFrame, x: str = "stored_bytes", y: str = "ce_recovered") -> pd.DataFrame:
    """One row per run that was measured as the most of its (model, layer): the columns of `everything` and

    - `x`: that axis of `analysis.tables.frontier.X_AXES`. `compression` counts from the dense SAE of the largest n of the
      (model, layer), so that runs of several n can be compared: m*n / values of the decoder. With one n that is m/d.
    - `y`: the measure of that name,
    - `pareto`: no other run is as good in both and better in one. False where x or y is not known, and for PCA.

    Raises:
        NoRunsError: no run has both.
    """
    runs = measured_alike(everything).drop_duplicates("run_id", keep="last")
    tables = [_of_place(found, x, y) for _, found in groups(runs, PLACE)]
    table = pd.concat(tables, ignore_index=True)
    if not any(table["x"].notna() & table["y"].notna()):
        raise NoRunsError(f"no run has both {x} and {y}")
    return table.sort_values([*PLACE, "x", "y"], ignore_index=True)


def _of_place(runs: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    at = storage(runs, x, max(runs["n"].tolist()))
    found = runs.assign(x=at, y=runs.get(y, math.nan))
    points = part(found, ["x", "y"]).to_numpy(dtype=float) * [-1 if x in X_DOWN else 1, -1 if y in Y_DOWN else 1]
    sparse = np.array([base(arm) != PCA for arm in found["arm"]])
    eligible = np.all(np.isfinite(points), axis=1) & sparse
    pareto = np.zeros(len(found), dtype=bool)
    pareto[eligible] = non_dominated(*points[eligible].T)
    return found.assign(pareto=pareto)


def storage(runs: pd.DataFrame, x: str, n: int) -> pd.Series:
    """The axis `x` of each run, compression counted from a dense SAE of `n` latents."""
    if x != "compression":
        return column(runs, X_AXES[x][0]).astype(float)
    return column(runs, "d_in") * n / (column(runs, "n_latents") * column(runs, "degree"))


def non_dominated(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> np.ndarray:
    """Of points, more being better in both: whether no other is as good in both and better in one. Equal points are in
    the set together.

    Args:
        x, y: finite, (points,).
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    kept = np.zeros(len(xs), dtype=bool)
    best = -math.inf  # of the points with a better x
    for value in sorted(set(xs.tolist()), reverse=True):
        here = xs == value
        top = float(ys[here].max())
        if top > best:
            kept |= here & (ys == top)
            best = top
    return kept


def as_csv(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """`table` with the columns people ask for: the run and its axes, every setting that differs between runs (`lr` for
    `train.lr`), x and y by their names, delta_ce, pareto."""
    varying = _varying(table)
    found = pd.concat([part(table, _ALWAYS), varying], axis=1)
    found[x] = table["x"]
    found[y] = table["y"]
    found["delta_ce"] = table["delta_ce"]
    found["pareto"] = ["true" if chosen else "false" for chosen in table["pareto"]]
    return found


def _varying(table: pd.DataFrame) -> pd.DataFrame:
    texts = zip(table["settings"], table["options"], strict=True)
    settings = [{**json.loads(own), **json.loads(of_arm)} for own, of_arm in texts]
    columns: dict[str, list[Any]] = {}
    for name in sorted({name for one in settings for name in one}):
        values = [one.get(name) for one in settings]
        known = {json.dumps(value) for one, value in zip(settings, values, strict=True) if name in one}
        if len(known) > 1 and name not in _OF_ALL_RUNS:
            short = name.removeprefix("train.")
            columns[name if short in _ALWAYS else short] = values
    return pd.DataFrame(columns, index=table.index)
