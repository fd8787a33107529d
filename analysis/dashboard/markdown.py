"""The dominance table as Markdown, what repeats said once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from analysis.dashboard.dominance import Row
from sweep.store.sizes import human_size

_COLUMNS = ("stored, at most", "multiply-adds, at most", "best", "CE recovered", "runner-up", "ahead by")
_BUDGETS = 3  # of `analysis.tables.dominance`; where all of them agree their names say nothing


def dominance_markdown(rows: Sequence[Row]) -> str:
    """Of one panel's rows: budgets of a level, and levels in a row, that agree in all the rest are one line."""
    levels = [(level, _budgets(list(found))) for level, found in groupby(rows, key=lambda row: row["level"])]
    lines: list[Sequence[str]] = [_COLUMNS, ["---"] * len(_COLUMNS)]
    for budgets, found in groupby(levels, key=lambda level: level[1]):
        sizes = [size for size, _ in found]
        stored = human_size(sizes[0]) + (f" to {human_size(sizes[-1])}" if len(sizes) > 1 else "")
        lines += [(stored, *line) for line in budgets]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _budgets(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Of one level."""
    lines: list[tuple[str, ...]] = []
    for cells, found in groupby(rows, key=_cells):
        names = [row["budget"] for row in found]
        lines.append(("any" if len(names) == _BUDGETS else ", ".join(names), *cells))
    return lines


def _cells(row: Row) -> tuple[str, str, str, str]:
    seeds = row["winner_seeds"]
    own = f"{_measured(row, 'winner_mean', 'winner_half_interval')} ({seeds} seed{'s' * (seeds != 1)})"
    if not isinstance(row.get("runner_up"), str):  # no other arm fits the level and the budget
        return _who(row, "winner"), own, "none", ""
    ahead = _measured(row, "runner_up_difference", "runner_up_difference_half_interval")
    return _who(row, "winner"), own, _who(row, "runner_up"), ahead


def _who(row: Row, role: str) -> str:
    d = "" if math.isnan(row[f"{role}_d"]) else f" d={row[f'{role}_d']:g}"
    return f"{row[role]}{d}, {row[f'{role}_inference']}"


def _measured(row: Row, mean: str, half_interval: str) -> str:
    """A mean with its 95 % interval, `0.8997 ± 0.0068`; the mean alone where there is one seed."""
    if math.isnan(row[mean]):
        return "no seed in common"
    interval = "" if math.isnan(row[half_interval]) else f" ± {row[half_interval]:.4f}"
    return f"{row[mean]:.4f}{interval}"
