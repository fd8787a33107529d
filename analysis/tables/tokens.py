"""What the paper's cells, which are about all tokens, give where they are about ordinary tokens."""

from __future__ import annotations

import pandas as pd

from analysis.frames import dicts, where
from analysis.read.comparable import ALL_TOKENS, comparable
from analysis.tables.stats import over_seeds

_CELL = ["model", "layer", "arm", "d", "k", "n", "n_latents"]
_NAMED = 4  # cells that the note names, at most
_EMBEDDED = "embedded"


def other_tokens_table(everything: pd.DataFrame, shown: pd.DataFrame, y: str = "ce_recovered") -> pd.DataFrame:
    """Return each cell of `shown` about all tokens that was also run about ordinary ones.

    Args:
        everything: every run, as `analysis.read.records.Records.everything`.
        shown: the runs of a table.

    Returns:
        the columns that name a cell, and `all` and `ordinary`, the mean of `y` over the seeds of either.
    """
    ordinary = where(everything, everything["mask_policy"] != ALL_TOKENS)
    over_all = where(shown, shown["mask_policy"] == ALL_TOKENS)
    if ordinary.empty or over_all.empty:
        return pd.DataFrame(columns=[*_CELL, "all", "ordinary"])
    sides = [
        over_seeds(runs, _CELL, y).rename(columns={"mean": name})[[*_CELL, name]]
        for name, runs in (("all", over_all), ("ordinary", comparable(ordinary)))
    ]
    return sides[0].merge(sides[1], on=_CELL)


def other_tokens_note(everything: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Return in a sentence what the runs of a table give about ordinary tokens; empty where nobody knows."""
    said: list[str] = []
    if _EMBEDDED in set(shown["model"]):
        said.append("Every token of the embedded LM is ordinary, so that eval.tokens=ordinary gives the same there. ")
    cells = dicts(other_tokens_table(everything, shown))
    if cells:
        named = [f"{_name(cell)} {cell['ordinary']:.3f} (here {cell['all']:.3f})" for cell in cells[:_NAMED]]
        more = f", and {len(cells) - _NAMED} more cells" if len(cells) > _NAMED else ""
        said.append(f"CE recovered over ordinary tokens (eval.tokens=ordinary): {', '.join(named)}{more}. ")
    return "".join(said)


def _name(cell: dict[str, object]) -> str:
    d = cell["d"]
    degree = f" d={d:.0f}" if isinstance(d, float) and d == d else ""
    return f"{cell['model']} L{cell['layer']} {cell['arm']}{degree} k={cell['k']}"
