"""The dominance table as Markdown, with lines that repeat merged into one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from analysis.dashboard.dominance import Row
from analysis.tables.dominance import BUDGETS
from sweep.store.human_size import human_size

_COLUMNS = ("stored, at most", "multiply-adds, at most", "best", "CE recovered", "runner-up", "ahead by", "floor")


def dominance_markdown(rows: Sequence[Row]) -> str:
    """Return the rows of one panel (model, layer, n, k) as a Markdown table.

    Budgets of one level that agree in all the rest are one line, and so are neighbouring levels.
    """
    levels = [(level, _level_lines(list(found))) for level, found in groupby(rows, key=lambda row: row["level"])]
    lines: list[Sequence[str]] = [_COLUMNS, ["---"] * len(_COLUMNS)]
    for level_lines, found in groupby(levels, key=lambda level: level[1]):
        sizes = [size for size, _ in found]
        stored = human_size(sizes[0]) + (f" to {human_size(sizes[-1])}" if len(sizes) > 1 else "")
        lines += [(stored, *line) for line in level_lines]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _level_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the cells of one level's lines; budgets that agree share a line, called `any` where all of them do."""
    lines: list[tuple[str, ...]] = []
    for cells, found in groupby(rows, key=_cells):
        names = [row["budget"] for row in found]
        lines.append(("any" if len(names) == len(BUDGETS) else ", ".join(names), *cells))
    return lines


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    seeds = row["winner_seeds"]
    mean = f"{_measured(row, 'winner_mean', 'winner_half_interval')} ({seeds} seed{'s' * (seeds != 1)})"
    if not isinstance(row.get("runner_up"), str):  # no other arm fits the level and the budget
        return _dictionary(row, "winner"), mean, "none", "", _floor(row)
    ahead = _measured(row, "runner_up_difference", "runner_up_difference_half_interval")
    return _dictionary(row, "winner"), mean, _dictionary(row, "runner_up"), ahead, _floor(row)


def _floor(row: Row) -> str:
    """Return the floor and whether the winner is above it: `0.9387, not above the floor`."""
    return row["verdict"] if math.isnan(row["floor"]) else f"{row['floor']:.4f}, {row['verdict']}"


def _dictionary(row: Row, role: str) -> str:
    """Return the arm, the d it has, and the reading of the `winner` or the `runner_up`."""
    d = "" if math.isnan(row[f"{role}_d"]) else f" d={row[f'{role}_d']:g}"
    return f"{row[role]}{d}, {row[f'{role}_inference']}"


def _measured(row: Row, mean: str, half_interval: str) -> str:
    """Return a mean with its 95 % interval, `0.8997 ± 0.0068`; the mean alone where there is one seed."""
    if math.isnan(row[mean]):
        return "no seed in common"
    interval = "" if math.isnan(row[half_interval]) else f" ± {row[half_interval]:.4f}"
    return f"{row[mean]:.4f}{interval}"
