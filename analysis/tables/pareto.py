"""The Pareto set: the runs that no other run of the same (model, layer) beats, whatever their k, n, d, arm or recipe.

A search leaves runs whose k, n, d and learning rate all differ: no cell has a second seed, so each run is a point of
its own and nothing is averaged. The best of many single runs owes its place to luck in part: train the ones you pick
again with other seeds. PCA is in the table but never in the set, as it is not sparse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.arms import PCA
from analysis.frames import column, groups, part
from analysis.read.comparable import measured_alike
from analysis.read.sources import NoRunsError
from analysis.tables.floor import FLOOR, with_floor
from analysis.tables.frontier import X_AXES
from analysis.tables.pairs import CELL

PLACE = ["model", "layer"]
X_DOWN = ("stored_bytes", "decoder_values")  # storage axes of which less is better
Y_DOWN = ("delta_ce", "fvu")  # fidelity axes of which less is better
_ALWAYS = ["model", "run_id", "arm", "d", "k", "n", "n_latents", "layer", "seed"]
_OF_FLOOR = ["floor", "floor_d", "above_floor"]
# Settings that get no column: the columns `layer` and `model` say the first two, and runs of one LM share their corpus.
_WITHOUT_COLUMN = ("activations.layer", "activations.lm", "activations.corpus")


def pareto_table(
    everything: pd.DataFrame, x: str = "stored_bytes", y: str = "ce_recovered", control: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return one row per run that was measured like most runs of its (model, layer).

    Columns are those of `everything` and

    - `x`: the axis of that name in `analysis.tables.frontier.X_AXES`. `compression` counts from the dense SAE of the
      largest n of the (model, layer), so that runs of several n can be compared: m*n / values of the decoder. With one
      n that is m/d.
    - `y`: the measure of that name,
    - `pareto`: whether no other run is as good in both and better in one; False where x or y is unknown, and for PCA,
    - those of `analysis.tables.floor.with_floor`; a single run cannot say which difference it resolves.

    Args:
        control: the runs that have the floor, where `everything` may lack it; None for `everything`.

    Raises:
        NoRunsError: no run has both x and y.
    """
    runs = measured_alike(everything).drop_duplicates("run_id", keep="last")
    tables = [_with_pareto(found, x, y) for _, found in groups(runs, PLACE)]
    table = pd.concat(tables, ignore_index=True)
    if not any(table["x"].notna() & table["y"].notna()):
        raise NoRunsError(f"no run has both {x} and {y}")
    table = table.sort_values([*PLACE, "x", "y"], ignore_index=True)
    if y not in table:
        return table.assign(**dict.fromkeys(FLOOR, math.nan))
    # Choosing runs says on standard error what it leaves out: once is enough.
    floors = runs if control is None or len(control) == len(everything) else measured_alike(control)
    alone = table.assign(seeds=1, half_interval=math.nan)
    return with_floor(alone, floors, y, CELL, mean="y").drop(columns=["seeds", "half_interval"])


def _with_pareto(runs: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return the runs of one (model, layer) with `x`, `y` and `pareto`."""
    found = runs.assign(x=storage(runs, x, max(runs["n"].tolist())), y=runs.get(y, math.nan))
    points = part(found, ["x", "y"]).to_numpy(dtype=float) * [-1 if x in X_DOWN else 1, -1 if y in Y_DOWN else 1]
    eligible = np.all(np.isfinite(points), axis=1) & (column(found, "base_arm") != PCA).to_numpy()
    pareto = np.zeros(len(found), dtype=bool)
    pareto[eligible] = non_dominated(*points[eligible].T)
    return found.assign(pareto=pareto)


def storage(runs: pd.DataFrame, x: str, n: int) -> pd.Series:
    """Return the storage axis `x` of each run, compression counted from a dense SAE of `n` latents."""
    if x != "compression":
        return column(runs, X_AXES[x][0]).astype(float)
    return column(runs, "d_in") * n / (column(runs, "n_latents") * column(runs, "degree"))


def non_dominated(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return for each point whether no other one is as good in both x and y and better in one of them.

    More is better in both. Equal points are in the set together, or none of them is.

    Args:
        x, y: finite, (points,).

    Returns:
        booleans, (points,).
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    kept = np.zeros(len(xs), dtype=bool)
    best = -math.inf  # the highest y of the points with a better x
    for value in sorted(set(xs.tolist()), reverse=True):
        here = xs == value
        top = float(ys[here].max())
        if top > best:
            kept |= here & (ys == top)
            best = top
    return kept


def as_csv(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return `table` with the columns for a reader of the CSV file.

    These are the run and its axes, every setting that differs between runs (`lr` for `train.lr`), x and y under their
    own names, delta_ce, the floor, and pareto.
    """
    found = pd.concat([part(table, _ALWAYS), _differing_settings(table)], axis=1)
    found[x] = table["x"]
    found[y] = table["y"]
    found["delta_ce"] = table["delta_ce"]
    found = pd.concat([found, part(table, _OF_FLOOR)], axis=1)
    found["pareto"] = ["true" if in_set else "false" for in_set in table["pareto"]]
    return found


def _differing_settings(table: pd.DataFrame) -> pd.DataFrame:
    """Return a column for each setting and arm's option that has several values in `table`."""
    texts = zip(table["settings"], table["options"], strict=True)
    settings = [{**json.loads(setting), **json.loads(option)} for setting, option in texts]
    columns: dict[str, list[Any]] = {}
    for name in sorted({name for one in settings for name in one}):
        values = [one.get(name) for one in settings]
        known = {json.dumps(value) for one, value in zip(settings, values, strict=True) if name in one}
        if len(known) > 1 and name not in _WITHOUT_COLUMN:
            short = name.removeprefix("train.")
            columns[name if short in _ALWAYS else short] = values
    return pd.DataFrame(columns, index=table.index)
