"""The page's frontier: every storage and fidelity axis, every way codes were read, and the single runs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.arms import DENSE
from analysis.frames import groups, only, part
from analysis.output import Options, chosen
from analysis.page.charts import PANEL_CHOICES, Choice, chart
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
    """`place`: of a run id in the run table; `shown`: the arms drawn at first."""
    ways = _ways(records)
    x = [
        {"key": name, "label": label, "short": name.replace("_", " "), "log": True, "unit": _UNITS[name],
         "column": column, "table": encoded(chosen(frontier_rows(ways, name, place), options))}
        for name, (column, label) in X_AXES.items()
    ]  # fmt: skip
    y = [
        {"key": name, "label": label, "short": _SHORT.get(name, label), "mean": name, "half": f"{name}_half"}
        for name, label in Y_AXES.items()
        if name in records.runs
    ]
    choices = [*PANEL_CHOICES, Choice(["inference"], "codes read by", first="encoder")]
    section = chart(x, y, choices, shown=shown, levels=list(DENSE), how=_HOW)
    return {**section, "points": encoded(_points(ways, options, place))}


def frontier_rows(ways: dict[str, pd.DataFrame], x: str, place: dict[str, int]) -> pd.DataFrame:
    """`frontier_table` of each way of reading over storage `x`: `inference`, the cell, x, seeds, `runs` (places of its
    runs in the run table), and `<y>`, `<y>_half` of every fidelity."""
    return pd.concat([_of_way(rows, x, place).assign(inference=name) for name, rows in ways.items()], ignore_index=True)


def _of_way(rows: pd.DataFrame, x: str, place: dict[str, int]) -> pd.DataFrame:
    column = X_AXES[x][0]
    named = at_every_k(rows.dropna(subset=[column])).rename(columns={column: "x"})
    members = [
        {**dict(zip(_CELL, key, strict=True)), "runs": [place.get(run) for run in found["run_id"]]}
        for key, found in groups(named, _CELL)
    ]
    table = pd.DataFrame(members)
    for y in [name for name in Y_AXES if name in rows]:
        found = frontier_table(rows, x, y).rename(columns={"mean": y, "half_interval": f"{y}_half"})
        new = [name for name in ("seeds", y, f"{y}_half") if name not in table]
        table = table.merge(part(found, [*_CELL, *new]), on=_CELL, validate="one_to_one")
    return table


def _ways(records: Records) -> dict[str, pd.DataFrame]:
    """The runs by way of reading; by their own encoder all, also those whose records name no other."""
    ways = {"encoder": records.runs}
    try:
        readings = records.readings
    except NoRunsError:
        return ways
    names = [name for name in dict.fromkeys(readings["inference"]) if name != "encoder"]
    # Without the column, `retained` compares with the dense SAE read the same way; the page shows none of it.
    return ways | {name: only(readings, inference=name).drop(columns="inference") for name in names}


def _points(ways: dict[str, pd.DataFrame], options: Options, place: dict[str, int]) -> pd.DataFrame:
    """One row per run and way of reading: `run` (its place in the run table), inference, the fidelities."""
    found = [chosen(rows, options).assign(inference=name) for name, rows in ways.items() if _any(rows, options)]
    table = pd.concat(found, ignore_index=True)
    table["run"] = [place[run] for run in table["run_id"]]
    return part(table, ["run", "inference", *[y for y in Y_AXES if y in table]])


def _any(rows: pd.DataFrame, options: Options) -> bool:
    try:
        return len(chosen(rows, options)) > 0
    except NoRunsError:
        return False
