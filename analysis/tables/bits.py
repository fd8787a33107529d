"""What arms preserve at 32 bits a value and at fewer."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.arms import FLOAT_BITS, Arm, parse
from analysis.frames import among, dicts, groups, part, renamed, where
from analysis.read.sources import NoRunsError
from analysis.tables.floor import with_floor
from analysis.tables.pairs import CELL
from analysis.tables.stats import over_seeds

ROUNDED = "rounding_below_90"
_BY = [*CELL, "arm", "reading", "d"]


def bits_table(runs: pd.DataFrame, control: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return CE recovered and artifact_bytes per (model, layer, n, k, arm, d) of arms that were rounded.

    Their float32 runs are among the rows, where something was rounded at the same model, layer, n and k. `base` is the
    label of the arm that was rounded; `rounding` says `4 bits`, `2 bits, trained` where values were rounded in training
    already, or `2 bits, product-quantised`. Below follow rows with `what` = ROUNDED for the rounded runs whose latents
    were compared with those of the values before rounding, or underneath it: the share of latents whose activations
    correlate below .9.

    Raises:
        NoRunsError: no run has rounded values.
    """
    rounded = where(runs, runs["bits"] != FLOAT_BITS)
    if rounded.empty:
        raise NoRunsError("no run has rounded values (arms such as expander-8bit)")
    beside = runs.merge(part(rounded, CELL).drop_duplicates(), on=CELL)
    found = among(beside, "unrounded_arm", list(set(rounded["unrounded_arm"])))
    found = renamed(found, {"unrounded_arm": "base"})
    found = found.assign(rounding=[_rounding_in_words(row) for row in dicts(found)])
    by = [*_BY, "base", "bits", "how_rounded", "rounding", "artifact_bytes"]
    fidelity = over_seeds(found, by, "ce_recovered")
    fidelity = with_floor(fidelity, runs if control is None else control, "ce_recovered")
    tables = [fidelity.assign(what="ce_recovered")]
    if ROUNDED in found and not (known := where(found, found[ROUNDED].notna())).empty:
        tables.append(over_seeds(known, by, ROUNDED).assign(what=ROUNDED))
    return pd.concat(tables, ignore_index=True)


def _rounding_in_words(row: dict[str, Any]) -> str:
    return Arm("", None, row["bits"], how=row["how_rounded"]).bits_in_words


def best_of_bits(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `bits_table` that no other SAE of their kind beats, with a column `kind`.

    An arm in any basis, at any bits and however its values were rounded, is of one kind: the label that is left without
    these. Of a kind those stay than which no other one of at most their bytes has as high a mean CE recovered.
    """
    table = table.assign(kind=[parse(base)._replace(basis=None).label for base in table["base"]])
    fidelity = where(table, table["what"] == "ce_recovered").sort_values(
        ["artifact_bytes", "mean"], ascending=[True, False]
    )
    best = []
    for _, rows in groups(fidelity, [*CELL, "kind"]):
        before = rows["mean"].cummax().shift(fill_value=float("-inf"))
        best.append(where(rows, rows["mean"] > before))
    kept = part(pd.concat(best), [*CELL, "arm", "d"])
    return table.merge(kept, on=[*CELL, "arm", "d"])
