"""Tables 2 and 3 in LaTeX: the bytes that each arm stores, and the gain from reading its codes by OMP."""

from __future__ import annotations

import pandas as pd

from analysis.arms import FLOAT_BITS, display
from analysis.frames import dicts, only, sorted_by_arm
from analysis.latex.write import latex_table, number, pm, whole
from analysis.output import Options, Output, chosen
from analysis.read.records import Records
from analysis.tables.deployment import encoder_to_omp, storage_table
from analysis.tables.pairs import CELL
from analysis.tables.published import NOTE, any_beside
from analysis.tables.pursuits import amortisation_table
from analysis.tables.tokens import other_tokens_note

_KIB_COLUMNS = {  # name for people: column of the table
    "values": "values_kib",
    "+ packed": "with_packed_indices_kib",
    "+ int32": "with_int32_indices_kib",
    "all": "with_biases_kib",
    "file": "file_kib",
}


def table2(records: Records, options: Options) -> list[Output]:
    """Return table 2: the storage of each arm and size, in KiB."""
    table = storage_table(chosen(records.as_the_paper.runs, options))
    rows = [
        {
            "LM": row["model"],
            "arm": display(row["arm"]),
            "d": whole(row["d"]),
            "n'": whole(row["n_latents"]),
            "bits": f"{row['value_bits']:g}",
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


def table3(records: Records, options: Options) -> list[Output]:
    """Return table 3: CE recovered by each arm's own encoder and by OMP, and the gain, paired by run.

    The LaTeX leaves out rounded arms unless they were asked for; the CSV has all.
    """
    paper = records.as_the_paper
    readings = chosen(paper.readings, options)
    table = sorted_by_arm(encoder_to_omp(amortisation_table(readings)), CELL, ["d", "n_latents"])
    published = any_beside(table)
    unrounded = set(only(readings, bits=FLOAT_BITS)["arm"])
    rows: list[dict[str, object]] = []
    for row in dicts(chosen(table, options, unrounded)):
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
        if any(table["encoder_floor"].notna()) or any(table["omp_floor"].notna()):
            shown |= {"floor, encoder": number(row["encoder_floor"]), "floor, OMP": number(row["omp_floor"])}
        if published:
            shown["published encoder"] = number(row["published_encoder"])
            shown["published OMP"] = number(row["published_omp"])
        rows.append(shown)
    note = "CE recovered; the gain is paired by run. 95 % t intervals over seeds. Floor: a random dictionary read so. "
    note += other_tokens_note(records.everything, paper.runs) + (NOTE if published else "")
    return [Output("table3", table, latex=latex_table(pd.DataFrame(rows), note))]
