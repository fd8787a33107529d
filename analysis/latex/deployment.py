"""Two tables for those who deploy: what each arm stores, and what reading its codes by OMP is worth."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.arms import display, parse
from analysis.frames import dicts, groups, only, part, renamed, sorted_by_arm
from analysis.latex.write import latex_table, number, pm, whole
from analysis.output import Options, Output, chosen
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.pairs import CELL
from analysis.tables.published import NOTE, any_beside, beside
from analysis.tables.pursuits import amortisation_table

KIB = 1024
_FLOAT = 4  # bytes


def table2(records: Records, options: Options) -> list[Output]:
    """Storage per arm and size, in KiB."""
    table = storage_table(chosen(records.runs, options))
    rows = [
        {
            "LM": row["model"],
            "arm": display(row["arm"]),
            "d": whole(row["d"]),
            "n'": whole(row["n_latents"]),
            "bits": whole(row["value_bits"]),
            **{name: number(row[column], 1) for name, column in _KIB_COLUMNS.items()},
        }
        for row in dicts(table)
    ]
    note = (
        "KiB. Values: of the decoder, at their bits each. Packed: with ceil(log2 m) bits an index; int32: with 4 bytes "
        "an index; all: with int32 indices, biases and an own encoder. A support that a seed regenerates takes 8 bytes "
        "in the file. File: what is on disk."
    )
    return [Output("table2", table, latex=latex_table(pd.DataFrame(rows), note))]


_KIB_COLUMNS = {
    "values": "values_kib",
    "+ packed": "with_packed_indices_kib",
    "+ int32": "with_int32_indices_kib",
    "all": "with_biases_kib",
    "file": "file_kib",
}


def storage_table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per (model, n, arm, d, n_latents, value_bits), in KiB:

    - values_kib: learned decoder values at `value_bits` each (0 where they come from a seed),
    - with_packed_indices_kib, with_int32_indices_kib: and n_latents*degree row indices of ceil(log2 m) or 32 bits
      (dense atoms have none),
    - with_biases_kib: the latter and everything else learned (biases, an own encoder) in float32,
    - file_kib: artifact_bytes, the largest over layers, k and seeds; index_bits: what the support takes there.
    """
    by = ["model", "n", "arm", "d", "n_latents", "value_bits"]
    rows: list[dict[str, object]] = []
    for key, found in groups(runs, by):
        run = found.iloc[0].to_dict()
        rows.append({**dict(zip(by, key, strict=True)), **_sizes(run), "file_kib": found["artifact_bytes"].max() / KIB})
    return sorted_by_arm(pd.DataFrame(rows), ["model", "n"], ["d", "n_latents"])


def _sizes(run: dict[str, Any]) -> dict[str, object]:
    values = run["learned_decoder_values"] * run["value_bits"] / 8
    indices = 0 if run["degree"] >= run["d_in"] else run["n_latents"] * run["degree"]
    other = run.get("learned_parameters", math.nan) - run["learned_decoder_values"]
    packed = indices * math.ceil(math.log2(run["d_in"])) / 8
    return {
        "values_kib": values / KIB,
        "with_packed_indices_kib": (values + packed) / KIB,
        "with_int32_indices_kib": (values + 4 * indices) / KIB,
        "with_biases_kib": (values + 4 * indices + _FLOAT * other) / KIB,
        "index_bits": run.get("index_bits", math.nan),
    }


def table3(records: Records, options: Options) -> list[Output]:
    """CE recovered by each arm's own encoder and by OMP, and the gain, paired by run; in LaTeX of arms not rounded."""
    table = encoder_to_omp(amortisation_table(chosen(records.readings, options)))
    table = sorted_by_arm(table, CELL, ["d", "n_latents"])
    published = any_beside(table)
    rows: list[dict[str, object]] = []
    for row in dicts(chosen(table, options, [arm for arm in set(table["arm"]) if not parse(arm).bits])):
        shown = {
            "LM": f"{row['model']} L{row['layer']}",
            "k": str(row["k"]),
            "arm": display(row["arm"]),
            "d": whole(row["d"]),
            "n'": whole(row["n_latents"]),
            "encoder": pm(row["encoder"], row["encoder_half_interval"]),
            "OMP": pm(row["omp"], row["omp_half_interval"]),
            "gain": pm(row["gain"], row["gain_half_interval"], signed=True),
        }
        if published:
            shown["published encoder"] = number(row["published_encoder"])
            shown["published OMP"] = number(row["published_omp"])
        rows.append(shown)
    note = "CE recovered; the gain is paired by run. 95 % t intervals over seeds. " + (NOTE if published else "")
    return [Output("table3", table, latex=latex_table(pd.DataFrame(rows), note))]


def encoder_to_omp(readings: pd.DataFrame) -> pd.DataFrame:
    """One row per cell of `amortisation_table` that was read by OMP: encoder, omp and gain with 95 % half intervals,
    seeds, and the paper's two values.

    Raises:
        NoRunsError: none was.
    """
    cell = [*CELL, "arm", "d", "n_latents"]
    by_omp = only(readings, inference="omp")
    if by_omp.empty:
        raise NoRunsError("no run was read by OMP; python -m sweep.evaluate run=all eval.inference=[omp] does so")
    measures = ["mean", "half_interval"]
    table = part(by_omp, [*cell, *measures, "gain", "gain_half_interval", "seeds"])
    table = renamed(table, {"mean": "omp", "half_interval": "omp_half_interval"})
    own = part(only(readings, inference="encoder"), [*cell, *measures])
    own = renamed(own, {"mean": "encoder", "half_interval": "encoder_half_interval"})
    table = table.merge(own, how="left", on=cell)
    for name in ("encoder", "omp"):
        table = beside(table.assign(inference=name), ["ce_recovered"]).drop(columns="inference")
        table = renamed(table, {"published_ce_recovered": f"published_{name}"})
    return table
