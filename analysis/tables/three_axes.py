"""Bytes, fidelity and meaning of the same dictionaries, read in the same way, each beside its floor.

fidelity    CE recovered of an LM's SAEs, explained variance of those of synthetic models
meaning     accuracy of a probe on a few latents, share of known features found
"""

from __future__ import annotations

import pandas as pd

from analysis.frames import renamed
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.floor import FLOOR, with_floor
from analysis.tables.measures import feature_rows, probing_rows
from analysis.tables.pairs import CELL
from analysis.tables.stats import over_seeds

SIDES = ("fidelity", "meaning")
_KINDS = (  # rows of records, and the measure of each of SIDES
    (probing_rows, ("ce_recovered", "accuracy")),
    (feature_rows, ("explained_variance", "coverage")),
)
_BY = [*CELL, "reading", "arm", "d", "n_latents", "degree", "artifact_bytes"]


def three_axes_table(records: Records) -> pd.DataFrame:
    """Return one row per arm, size and way of reading that was measured on both sides.

    Columns: model (with the labelled sets or the kind of features), layer (empty for synthetic models), n, k, reading,
    arm, d, n_latents, degree, artifact_bytes, seeds, and of both SIDES <side>_measure, <side> (the mean over seeds),
    <side>_half_interval (95 %), and the columns of `analysis.tables.floor.with_floor` as <side>_floor and so on.

    Raises:
        NoRunsError: no SAE was measured on both sides.
    """
    tables: list[pd.DataFrame] = []
    reasons: list[NoRunsError] = []
    for rows_of, measures in _KINDS:
        try:
            rows = rows_of(records)
        except NoRunsError as reason:
            reasons.append(reason)
            continue
        fidelity, meaning = (_side(rows, *pair) for pair in zip(SIDES, measures, strict=True))
        tables.append(fidelity.merge(meaning.drop(columns="seeds"), on=_BY))
    if not tables:
        raise NoRunsError("; ".join(map(str, reasons)))
    return pd.concat(tables, ignore_index=True)


def _side(rows: pd.DataFrame, side: str, measure: str) -> pd.DataFrame:
    table = with_floor(over_seeds(rows, _BY, measure), rows, measure)
    names = {name: f"{side}_{name}" for name in ("half_interval", *FLOOR)}
    return renamed(table, {"mean": side, **names}).assign(**{f"{side}_measure": measure})


def one_side(table: pd.DataFrame, side: str) -> pd.DataFrame:
    """Return the rows with the columns of one side under the names of every other table: mean, half_interval, ..."""
    other = next(one for one in SIDES if one != side)
    rest = table.drop(columns=[name for name in table.columns if name.startswith(other)])
    names = {f"{side}_{name}": name for name in ("half_interval", "measure", *FLOOR)}
    return renamed(rest, {side: "mean", **names})
