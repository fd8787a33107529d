"""The table of each arm's latents in LaTeX."""

from __future__ import annotations

import pandas as pd

from analysis import arms
from analysis.frames import dicts
from analysis.latex.write import latex_table, pm, whole
from analysis.tables.latents import MEASURES, NOVELTY_NULL


def latents_latex(table: pd.DataFrame) -> str:
    """Return the rows of `analysis.tables.latents.summary_table` in LaTeX, with the measures that some row has."""
    shown = [name for name in (*MEASURES, NOVELTY_NULL) if name in table and any(table[name].notna())]
    names = {**MEASURES, "novelty_novel_fraction": "novel", NOVELTY_NULL: "novel, null"}
    rows = [
        {
            "LM": f"{row['model']} L{row['layer']}",
            "k": str(row["k"]),
            "arm": arms.display(row["arm"]),
            "d": whole(row["d"]),
            **{names[name]: pm(row[name], row[f"{name}_half_interval"]) for name in shown},
        }
        for row in dicts(table)
    ]
    note = "Mean with 95 % t interval over seeds; novelty against the record's own reference run, beside its null."
    return latex_table(pd.DataFrame(rows), note)
