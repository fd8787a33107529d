"""The page's frontier section: every storage and fidelity axis, every way that codes were read, and single runs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.arms import DENSE
from analysis.frames import groups, only, part
from analysis.output import Options, chosen
from analysis.page.charts import PANEL_CHOICES, Choice, chart, x_axis
from analysis.page.encode import encoded
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.frontier import X_AXES, Y_AXES, at_every_k, frontier_table

_CELL = ["model", "layer", "n", "arm", "k", "d", "n_latents", "degree", "x"]
_UNITS = {"compression": "times", "decoder_values": "count", "stored_bytes": "bytes"}
_SHORT = {
    "ce_recovered": "CE recovered",
    "ce_recovered_mean": "CE recovered, mean ablation = 0",
    "delta_ce": "added CE",
}
_HOW = """Up is better. To the right of compression less is stored, to the right of the others more. A line is an arm,
a point the mean of its seeds with its 95 % t interval, a level a dense SAE of all n latents, which ignores d. Zero
ablation can flatter: read mean ablation and added cross-entropy beside it."""


def frontier_section(records: Records, options: Options, place: dict[str, int], shown: list[str]) -> dict[str, Any]:
    """Return the chart of the frontier.

    Args:
        place: the row of each run id in the page's run table.
        shown: the arms drawn at first.
    """
    ways = _ways_of_reading(records)
    y = [
        {"key": name, "label": label, "short": _SHORT.get(name, label), "mean": name, "half": f"{name}_half"}
        for name, label in Y_AXES.items()
        if name in records.runs
    ]
    choices = [*PANEL_CHOICES, Choice(["inference"], "codes read by", first="encoder")]
    x = [_storage_axis(name, chosen(frontier_rows(ways, name, place), options)) for name in X_AXES]
    section = chart(x, y, choices, shown=shown, levels=list(DENSE), how=_HOW)
    return {**section, "points": encoded(_single_runs(ways, options, place))}


def _storage_axis(name: str, table: pd.DataFrame) -> dict[str, Any]:
    column, label = X_AXES[name]
    axis = x_axis(name, label, log=True, unit=_UNITS[name])
    return {**axis, "short": name.replace("_", " "), "column": column, "table": encoded(table)}


def frontier_rows(ways: dict[str, pd.DataFrame], x: str, place: dict[str, int]) -> pd.DataFrame:
    """Return the rows of `frontier_table` over storage `x` for each way of reading codes.

    Columns: `inference`, the cell, x, seeds, `runs` (the rows of its runs in the page's run table), and of every
    fidelity y its mean `<y>` and half interval `<y>_half`.
    """
    tables = [_rows_of_way(rows, x, place).assign(inference=name) for name, rows in ways.items()]
    return pd.concat(tables, ignore_index=True)


def _rows_of_way(rows: pd.DataFrame, x: str, place: dict[str, int]) -> pd.DataFrame:
    column = X_AXES[x][0]
    with_x = at_every_k(rows.dropna(subset=[column])).rename(columns={column: "x"})
    members = [
        {**dict(zip(_CELL, key, strict=True)), "runs": [place.get(run) for run in found["run_id"]]}
        for key, found in groups(with_x, _CELL)
    ]
    table = pd.DataFrame(members)
    for y in [name for name in Y_AXES if name in rows]:
        found = frontier_table(rows, x, y).rename(columns={"mean": y, "half_interval": f"{y}_half"})
        new = [name for name in ("seeds", y, f"{y}_half") if name not in table]
        table = table.merge(part(found, [*_CELL, *new]), on=_CELL, validate="one_to_one")
    return table


def _ways_of_reading(records: Records) -> dict[str, pd.DataFrame]:
    """Return the runs by way of reading codes.

    Under `encoder` stand all runs, also those whose records name no other way than their own encoder.
    """
    ways = {"encoder": records.runs}
    try:
        readings = records.readings
    except NoRunsError:
        return ways
    names = [name for name in dict.fromkeys(readings["inference"]) if name != "encoder"]
    # Without the column, `retained` compares with the dense SAE read the same way; the page shows none of it.
    return ways | {name: only(readings, inference=name).drop(columns="inference") for name in names}


def _single_runs(ways: dict[str, pd.DataFrame], options: Options, place: dict[str, int]) -> pd.DataFrame:
    """Return one row per run and way of reading: `run` (its row in the run table), inference, the fidelities."""
    found = [chosen(rows, options).assign(inference=name) for name, rows in ways.items() if _has_any(rows, options)]
    table = pd.concat(found, ignore_index=True)
    table["run"] = [place[run] for run in table["run_id"]]
    return part(table, ["run", "inference", *[y for y in Y_AXES if y in table]])


def _has_any(rows: pd.DataFrame, options: Options) -> bool:
    """Return whether any row is of an arm that was asked for."""
    try:
        return len(chosen(rows, options)) > 0
    except NoRunsError:
        return False
