"""Tables for deployment: the bytes that each arm stores, and the gain from reading its codes by OMP."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.arms import LOW_RANK
from analysis.frames import groups, only, part, renamed, sorted_by_arm
from analysis.read.sources import NoRunsError
from analysis.tables.floor import FLOOR
from analysis.tables.pairs import CELL
from analysis.tables.published import beside

KIB = 1024  # bytes
_FLOAT = 4  # bytes of a float32


def storage_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (model, n, arm, d, n_latents, value_bits) with its storage in KiB:

    - values_kib: learned decoder values at `value_bits` each (0 where they come from a seed), those of a basis at
      `basis_bits`,
    - with_packed_indices_kib, with_int32_indices_kib: the values and n_latents*degree row indices of ceil(log2 m) or
      32 bits each (dense atoms have none),
    - with_biases_kib: the values, int32 indices and everything else learned (biases, an own encoder) in float32,
    - file_kib: artifact_bytes, the largest over layers, k and seeds,
    - index_bits: the bits that the support takes in that file.
    """
    by = ["model", "n", "arm", "d", "n_latents", "value_bits"]
    rows: list[dict[str, object]] = []
    for key, found in groups(runs, by):
        run = found.iloc[0].to_dict()
        rows.append({**dict(zip(by, key, strict=True)), **_sizes(run), "file_kib": found["artifact_bytes"].max() / KIB})
    return sorted_by_arm(pd.DataFrame(rows), ["model", "n"], ["d", "n_latents"])


def _sizes(run: dict[str, Any]) -> dict[str, object]:
    """Return the columns of `storage_table` that follow from a run's sizes."""
    in_basis = run["basis_values"]
    values = ((run["learned_decoder_values"] - in_basis) * run["value_bits"] + in_basis * run["basis_bits"]) / 8
    dense = run["degree"] >= run["d_in"] or run["base_arm"] == LOW_RANK
    indices = 0 if dense else run["n_latents"] * run["degree"]
    other = run.get("learned_parameters", math.nan) - run["learned_decoder_values"]
    packed = indices * math.ceil(math.log2(run["d_in"])) / 8
    return {
        "values_kib": values / KIB,
        "with_packed_indices_kib": (values + packed) / KIB,
        "with_int32_indices_kib": (values + 4 * indices) / KIB,
        "with_biases_kib": (values + 4 * indices + _FLOAT * other) / KIB,
        "index_bits": run.get("index_bits", math.nan),
    }


def encoder_to_omp(readings: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell that was read by OMP: encoder, omp and gain with 95 % half intervals, and seeds.

    Beside both stands the floor, as `encoder_floor`, `omp_above_floor` and so on (`analysis.tables.floor`). The paper's
    values of the same cell follow as `published_encoder` and `published_omp`.

    Args:
        readings: from `analysis.tables.pursuits.amortisation_table`.

    Raises:
        NoRunsError: no cell was read by OMP.
    """
    cell = [*CELL, "arm", "d", "n_latents"]
    by_omp = only(readings, inference="omp")
    if by_omp.empty:
        raise NoRunsError("no run was read by OMP; python -m sweep.evaluate run=all eval.inference=[omp] does so")
    measures = ["mean", "half_interval", *FLOOR]
    table = _of_way(part(by_omp, [*cell, *measures, "gain", "gain_half_interval", "seeds"]), "omp")
    own = _of_way(part(only(readings, inference="encoder"), [*cell, *measures]), "encoder")
    table = table.merge(own, how="left", on=cell)
    for name in ("encoder", "omp"):
        table = beside(table.assign(inference=name), ["ce_recovered"]).drop(columns="inference")
        table = renamed(table, {"published_ce_recovered": f"published_{name}"})
    return table


def _of_way(rows: pd.DataFrame, way: str) -> pd.DataFrame:
    """Return `rows` with `way` for `mean`, and before the names of its interval and its floor."""
    return renamed(rows, {"mean": way, **{name: f"{way}_{name}" for name in ("half_interval", *FLOOR)}})
