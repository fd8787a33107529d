"""Rows and columns of tables by name, with one type each: pandas' own indexing returns a frame, a series or a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from analysis.arms import FLOAT_BITS, in_order


def where(rows: pd.DataFrame, keep: Any) -> pd.DataFrame:
    """Return the rows where the boolean `keep` holds."""
    return cast(pd.DataFrame, rows.loc[keep])  # rows[[]] would be no column in place of no row


def only(rows: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """Return the rows whose columns have the values given."""
    for name, value in equal.items():
        rows = where(rows, rows[name] == value)
    return rows


def among(rows: pd.DataFrame, name: str, values: Sequence[object]) -> pd.DataFrame:
    """Return the rows whose column `name` has one of `values`."""
    return where(rows, rows[name].isin(list(values)))


def plain(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of arms that were trained by the one-shot encoder and not rounded.

    Args:
        runs: with the columns `pursuit` and `bits` of `analysis.read.records.Records.everything`.
    """
    return only(runs, pursuit="", bits=FLOAT_BITS)


def part(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the columns `names` as a frame."""
    return cast(pd.DataFrame, rows[list(names)])


def column(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return the column `name` as a series."""
    return cast(pd.Series, rows[name])


def renamed(rows: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Return `rows` with its columns renamed by `names`, old to new."""
    return rows.rename(columns=names)


def dicts(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each row as a dict."""
    return cast(list[dict[str, Any]], rows.to_dict("records"))


def groups(table: pd.DataFrame, by: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Return ((values of `by`), rows) of each group, sorted; rows where one of `by` is NaN form a group too."""
    return [(cast(tuple[Any, ...], key), rows) for key, rows in table.groupby(list(by), sort=True, dropna=False)]


def mean_by(rows: pd.DataFrame, by: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Return the means of the columns `names` over each group of `by`: columns *by, *names."""
    return cast(pd.DataFrame, rows.groupby(list(by), dropna=False)[list(names)].mean()).reset_index()


def distinct(rows: pd.DataFrame, by: Sequence[str], name: str) -> pd.Series:
    """Return for each row how many different values `name` has in the row's group of `by`."""
    return cast(pd.Series, rows.groupby(list(by), dropna=False)[name].transform("nunique"))


def sorted_by_arm(table: pd.DataFrame, before: Sequence[str], after: Sequence[str]) -> pd.DataFrame:
    """Return `table` sorted by the columns `before`, then in the order of `analysis.arms`, then by `after`."""
    order = in_order(table["arm"])
    placed = table.assign(place=[order.index(arm) for arm in table["arm"]])
    return placed.sort_values([*before, "place", *after], ignore_index=True).drop(columns="place")
