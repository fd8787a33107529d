"""The page's charts of what latents mean: known features, labelled concepts, and both beside what is preserved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.frames import dicts, groups
from analysis.output import Options, chosen
from analysis.page.charts import Choice, chart, x_axis, y_axis
from analysis.page.encode import encoded
from analysis.read.records import Records
from analysis.read.rows import ALL_SETS
from analysis.tables.floor import LOWER_IS_BETTER
from analysis.tables.meaning import MEASURES, check_comparable, meaning_table
from analysis.tables.probing import probing_table
from analysis.tables.three_axes import SIDES, one_side, three_axes_table

FLOOR_ARM = "floor"  # the arm of rows that are the floor: a level in grey
FLOOR_STYLE = {"name": "floor: random dictionary", "colour": "#7F7F7F", "symbol": "x", "dash": "dash", "rank": -1}
_BYTES = x_axis("artifact_bytes", "stored bytes (size of sae.safetensors)", log=True, unit="bytes")
_HOW = """Points are means over SAEs of several seeds with 95 % t intervals. The grey level is what a random dictionary
scores that is read in the same way: what is no better has found nothing."""


def meaning(records: Records, options: Options, shown: list[str]) -> dict[str, Any]:
    """Return the chart of which known features latents stand for, a measure at a time, against stored bytes."""
    check_comparable(records.samples)
    table = chosen(meaning_table(records.samples), options)
    by = ["features", "n", "k", "reading", "what"]
    choices = [
        Choice(["features"]),
        Choice(["n", "k"]),
        _reading(),
        Choice(["what"], "measure", "coverage", names=MEASURES),
    ]
    return _chart(table, by, choices, f"SAEs of activations made of known features. {_HOW}", "")


def probing(records: Records, options: Options, shown: list[str]) -> dict[str, Any]:
    """Return the chart of how well the best few latents tell labelled concepts, against stored bytes."""
    table = chosen(probing_table(records.probes), options)
    by = ["model", "layer", "n", "k", "reading", "family", "set", "best"]
    choices = [Choice(["model", "layer", "n"], "LM, layer, n"), Choice(["k"], "k"), _reading(), Choice(["family"])]
    choices += [Choice(["set"], "set", ALL_SETS), Choice(["best"], "number of latents", 5)]
    how = "Accuracy of a linear probe on the few latents that tell a labelled concept best; .5 is chance."
    return _chart(table, by, choices, f"{how} {_HOW}", "accuracy")


def three_axes(records: Records, options: Options, shown: list[str]) -> dict[str, Any]:
    """Return the chart of fidelity and meaning of the same dictionaries, against stored bytes."""
    table = chosen(three_axes_table(records), options)
    sides = [one_side(table, side).assign(side=side) for side in SIDES]
    by = ["model", "layer", "n", "k", "reading", "side"]
    names = {
        "fidelity": "fidelity: CE recovered, of synthetic models explained variance",
        "meaning": "meaning: accuracy of the best 5 latents, of synthetic models features found",
    }
    choices = [Choice(["model", "layer", "n"], "LM, layer, n"), Choice(["k"], "k"), _reading()]
    choices.append(Choice(["side"], "axis", "meaning", names=names))
    how = f"What is preserved, and what latents mean. {_HOW}"
    return _chart(pd.concat(sides, ignore_index=True), by, choices, how, "score")


def _reading() -> Choice:
    return Choice(["reading"], "codes read by", names={"topk": "one-shot"})


def _chart(table: pd.DataFrame, by: Sequence[str], choices: Sequence[Choice], how: str, y: str) -> dict[str, Any]:
    return chart([_BYTES], [y_axis(y)], choices, levels=[FLOOR_ARM], how=how, table=encoded(with_floor_rows(table, by)))


def with_floor_rows(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return `table` with a row for the best floor of each group of `by`, whose arm is FLOOR_ARM."""
    rows: list[dict[str, Any]] = []
    for key, found in groups(table, by):
        known = dicts(found.dropna(subset=["floor"]))
        if known:
            cell = dict(zip(by, key, strict=True))
            better = min if cell.get("what") in LOWER_IS_BETTER else max
            best = better(known, key=lambda row: row["floor"])
            rows.append({**cell, "arm": FLOOR_ARM, "mean": best["floor"], "half_interval": best["floor_half_interval"]})
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True) if rows else table
