"""Tables 1, 7 and 10 of the paper made of our records, with the cells that the paper published beside ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from analysis.arms import FROZEN, REFERENCE, display, in_order
from analysis.frames import dicts, groups, only, where
from analysis.latex.write import MISSING, Math, latex_table, number, pm, whole
from analysis.output import Options, Output, chosen
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.controls import at_several_layers
from analysis.tables.pairs import MODEL_LAYER_N
from analysis.tables.paper import measured, sorted_cells, three_degrees
from analysis.tables.published import NOTE, any_beside
from analysis.tables.tokens import other_tokens_note

PAPER_K = 64
_ARMS = ("expander", FROZEN, REFERENCE, "dense_warmtied")  # the random dictionary is the floor


def table1(records: Records, options: Options) -> list[Output]:
    """Return table 1: the expander at small, middle and large d and the dense SAEs, at k = 64 or else the largest k."""
    table = _at_main_k(chosen(measured(records.as_the_paper.runs), options, _ARMS))
    if not options.arms:
        table = where(table, table["d"].isna() | three_degrees(table, MODEL_LAYER_N))
    table = _nonempty(table, "no expander or dense run")
    note = f"Mean with 95 % t interval over seeds; retained: CE recovered / that of {REFERENCE}, paired by seed. "
    return [Output("table1", table, latex=latex_table(_as_read(table, _fidelity), note + _notes(records, table)))]


def table7(records: Records, options: Options) -> list[Output]:
    """Return table 7: CE recovered of the same cell at each layer of a model, one column a layer."""
    several = measured(at_several_layers(records.as_the_paper.runs))
    table = _nonempty(_at_main_k(chosen(several, options, _ARMS)), "no expander or dense run")
    rows: list[dict[str, object]] = []
    for _, cell in groups(table, ["model", "n", "k", "arm", "d", "n_latents"]):
        first = dicts(cell)[0]
        row: dict[str, object] = {"LM": first["model"], "k": str(first["k"]), **_arm_and_d(first)}
        for layer in sorted(table["layer"].unique()):
            here = dicts(only(cell, layer=layer))
            row |= {f"L{layer}": _ce(here[0]) if here else Math(MISSING)}
            if any_beside(table):
                row |= {f"L{layer} published": number(here[0]["published_ce_recovered"]) if here else Math(MISSING)}
        rows.append(row)
    note = "CE recovered after each layer, mean with 95 % t interval over seeds. " + _notes(records, table)
    return [Output("table7", table, latex=latex_table(_in_arm_order(rows), note))]


def table10(records: Records, options: Options) -> list[Output]:
    """Return table 10: CE recovered, relative error and dead fraction over the grid of d and k."""
    table = chosen(measured(records.as_the_paper.runs), options, ("expander", FROZEN, REFERENCE))
    table = _nonempty(table, "no expander run")
    rows: list[dict[str, object]] = []
    ks = sorted(table["k"].unique())
    for _, cell in groups(table, [*MODEL_LAYER_N, "arm", "d", "n_latents"]):
        first = dicts(cell)[0]
        row: dict[str, object] = {"LM": f"{first['model']} L{first['layer']}", **_arm_and_d(first)}
        for k in ks:
            here = dicts(only(cell, k=k))
            row |= {f"CE, k={k}": _ce(here[0]) if here else Math(MISSING)}
            for name, measure in (("error", "relative_error"), ("dead", "dead_fraction")):
                row |= {f"{name}, k={k}": number(here[0][measure]) if here else Math(MISSING)}
        rows.append(row)
    note = "CE recovered (with 95 % t interval over seeds), relative error and dead fraction; the CSV has the paper's. "
    return [Output("table10", table, latex=latex_table(_in_arm_order(rows), note + _notes(records, table)))]


def _fidelity(row: dict[str, Any]) -> dict[str, object]:
    """Return the measures of table 1."""
    return {
        "compression": Math(f"${row['decoder_compression']:.3g}\\times$"),
        "relative error": pm(row["relative_error"], row["relative_error_half_interval"]),
        "CE recovered": _ce(row),
        "retained": pm(row["retained"], row["retained_half_interval"]),
    }


def _as_read(table: pd.DataFrame, columns: Callable[[dict[str, Any]], dict[str, object]]) -> pd.DataFrame:
    """Return the rows as people read them, with the paper's values where it has any.

    Args:
        columns: from a row to its measures, by the names that people read.
    """
    rows: list[dict[str, object]] = []
    published = any_beside(table)
    for row in dicts(table):
        shown = {"LM": f"{row['model']} L{row['layer']}", "k": str(row["k"]), **_arm_and_d(row), **columns(row)}
        if published:
            shown["published error"] = number(row["published_relative_error"])
            shown["published CE"] = number(row["published_ce_recovered"])
        rows.append(shown)
    return pd.DataFrame(rows)


def _arm_and_d(row: dict[str, Any]) -> dict[str, object]:
    return {"arm": display(row["arm"]), "d": whole(row["d"])}


def _ce(row: dict[str, Any]) -> Math:
    return pm(row["ce_recovered"], row["ce_recovered_half_interval"])


def _notes(records: Records, table: pd.DataFrame) -> str:
    """Return what stands below a table: where the paper's values are from, and what ordinary tokens give."""
    shown = records.as_the_paper.runs
    models = where(shown, shown["model"].isin(table["model"].unique().tolist()))
    return other_tokens_note(records.everything, models) + (NOTE if any_beside(table) else "")


def _at_main_k(table: pd.DataFrame) -> pd.DataFrame:
    """Return per (model, layer, n) the rows at k = 64, or at the largest k where there are none."""
    kept = []
    for _, panel in groups(table, MODEL_LAYER_N):
        ks = set(panel["k"])
        kept.append(panel[panel["k"] == (PAPER_K if PAPER_K in ks else max(ks, default=0))])
    return sorted_cells(pd.concat(kept)) if kept else table


def _in_arm_order(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Return the rows with `_ARMS` first, as in every table: they come from groups, which are sorted by name."""
    names = [display(arm) for arm in in_order(_ARMS)]
    return pd.DataFrame(sorted(rows, key=lambda row: (str(row["LM"]), *_place(str(row["arm"]), names))))


def _place(name: str, names: list[str]) -> tuple[int, str]:
    return (names.index(name), "") if name in names else (len(names), name)


def _nonempty(table: pd.DataFrame, reason: str) -> pd.DataFrame:
    if table.empty:
        raise NoRunsError(reason)
    return table
