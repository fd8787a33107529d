"""The tables that say which arm wins, in LaTeX: dominance by stored bytes, and arm against arm."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.arms import base, display
from analysis.frames import dicts
from analysis.latex.write import MISSING, Math, latex_table, number, pm, whole


def wins_latex(table: pd.DataFrame) -> str:
    """Return in LaTeX the pairs of `analysis.tables.wins.wins_table` in which an arm is an expander."""
    with_expander = [row for row in dicts(table) if "expander" in (base(row["arm"]), base(row["other"]))]
    rows = [
        {
            "read by": row["inference"],
            "arm": display(row["arm"]),
            "against": display(row["other"]),
            "difference": pm(row["difference"], row["half_interval"], signed=True),
            "seeds": whole(row["seeds"]),
            "cells": whole(row["cells"]),
            "won": Math(f"${row['cells_won']}$ ({row['won_clearly']})"),
            "lost": Math(f"${row['cells_lost']}$ ({row['lost_clearly']})"),
        }
        for row in with_expander
    ]
    note = (
        "CE recovered, paired by cell (model, layer, n, k, d) and seed: mean difference with its 95 % interval over "
        "seeds; cells won and lost, in brackets those whose own interval leaves out 0."
    )
    return latex_table(pd.DataFrame(rows), note)


def dominance_latex(table: pd.DataFrame, measure: str = "CE recovered") -> str:
    """Return `analysis.tables.dominance.dominance_table` in LaTeX: each level's winners and their leads."""
    rows = [
        {
            **_cell_names(row),
            "stored KiB": whole(row["level"] / 1024),
            "multiply-adds": row["budget"],
            "most preserved by": _dictionary(row, "winner"),
            measure: pm(row["winner_mean"], row["winner_half_interval"]),
            "runner-up": _dictionary(row, "runner_up"),
            "loses": _difference(row, "runner_up"),
            "other kind": _dictionary(row, "other_kind"),
            "it loses": _difference(row, "other_kind"),
            "floor": pm(row["floor"], row["floor_half_interval"]),
            "verdict": row["verdict"],
            "PCA": number(row["pca_mean"]),
        }
        for row in dicts(table)
    ]
    note = (
        "The dictionary that preserves the most among all whose file fits the bytes and whose inference fits the "
        "multiply-adds a token. Losses are paired by seed, with 95 % intervals; other kind: the best dense one where "
        "the winner is sparse, and the other way round. Floor: the best random dictionary that fits; a winner is above "
        "it if its lead is larger than these seeds can resolve (95 %). PCA, in the same bytes, is not sparse and never "
        "wins."
    )
    return latex_table(pd.DataFrame(rows), note)


def _cell_names(row: dict[str, Any]) -> dict[str, str]:
    return {"LM": f"{row['model']} L{row['layer']}", "n, k": f"{row['n']}, {row['k']}"}


def _dictionary(row: dict[str, Any], role: str) -> str:
    """Return arm, size and way of reading of the dictionary in that role, MISSING where there is none."""
    arm = row.get(role)
    if not isinstance(arm, str):
        return MISSING
    d = row[f"{role}_d"]
    size = f"d={d:.0f}" if d == d and row[f"{role}_n_latents"] == row["n"] else f"n'={row[f'{role}_n_latents']:.0f}"
    reading = "" if row[f"{role}_inference"] == "encoder" else f", by {row[f'{role}_inference']}"
    return f"{display(arm)}, {size}{reading}"


def _difference(row: dict[str, Any], role: str) -> Math:
    """Return the winner's CE recovered minus that of the dictionary in that role, with its interval."""
    difference, half = (row.get(f"{role}_difference{part}", math.nan) for part in ("", "_half_interval"))
    return pm(difference, half)
