"""Looks of lines that say more than the arm: how long it trained, and which d it has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from analysis.draw.shared import Style, arm_style
from analysis.frames import dicts, mean_by

_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 3)))  # of curves without markers, by d
_MARKERS = "o^sDvP*Xhd"  # by d


def with_cost(table: pd.DataFrame) -> Callable[[dict[str, Any]], Style]:
    """Return the arms' styles; a label says how many times as many tokens as the expander the arm trained on."""
    tokens = {row["arm"]: row["train_tokens"] for row in dicts(mean_by(table, ["arm"], ["train_tokens"]))}
    least = tokens.get("expander", min(tokens.values()))

    def style(row: dict[str, Any]) -> Style:
        own = arm_style(row["arm"])
        times = tokens[row["arm"]] / least
        return own._replace(label=f"{own.label} ({times:.2g}x training)") if times > 1.05 else own

    return style


def by_degree(table: pd.DataFrame, by_line: bool = False) -> Callable[[dict[str, Any]], Style]:
    """Return styles with the arm's colour and a marker for each d, and with `by_line` a kind of line too."""
    degrees = sorted(table["d"].dropna().unique())

    def style(row: dict[str, Any]) -> Style:
        own = arm_style(row["arm"])
        if math.isnan(row["d"]):  # the arm has no d
            return own
        place = degrees.index(row["d"])
        line = _LINES[place % len(_LINES)] if by_line else own.line
        marker = _MARKERS[place % len(_MARKERS)]
        return own._replace(label=f"{own.label}, d={row['d']:.0f}", marker=marker, line=line)

    return style
