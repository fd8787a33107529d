"""The commands that draw: each makes a table of the records, and a figure of the rows that are readable together."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis import arms
from analysis.draw.bits import best_marked, marks, style_of_bits, style_of_kind
from analysis.draw.compressed import compressed_figure
from analysis.draw.dominance import dominance_figure
from analysis.draw.floor import only_with_floor
from analysis.draw.frontier import frontier_figure
from analysis.draw.iso_bytes import iso_bytes_figure
from analysis.draw.latents import richest, summary_figure
from analysis.draw.lines import lines_figure
from analysis.draw.meaning import meaning_figure
from analysis.draw.panels import fullest, readable
from analysis.draw.pareto import pareto_figure
from analysis.draw.probing import probing_figure
from analysis.draw.pursuits import amortisation_figure, certificates_figure, recovery_figure, throughput_figure
from analysis.draw.scale import scale_figure
from analysis.draw.seeds import seeds_figure
from analysis.draw.shared import D_LABEL, WHAT
from analysis.draw.stability import stability_figure
from analysis.draw.styles import by_degree, with_cost
from analysis.draw.three_axes import three_axes_figure
from analysis.draw.wins import wins_figure
from analysis.frames import among, column, groups, part, plain, renamed, where
from analysis.latex.latents import latents_latex
from analysis.latex.verdicts import dominance_latex, wins_latex
from analysis.output import Options, Output, chosen, one_figure_each, rows_to_draw
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.bits import ROUNDED, bits_table
from analysis.tables.compressed import compressed_table
from analysis.tables.controls import (
    layers_table,
    masks_table,
    matched_table,
    seeds_table,
    supports_table,
)
from analysis.tables.curves import data_table, learning_table, main_degrees
from analysis.tables.dominance import dominance_table
from analysis.tables.frontier import X_AXES, frontier_table, readable_arms
from analysis.tables.iso_bytes import iso_bytes_table
from analysis.tables.iso_storage import iso_storage_table
from analysis.tables.latents import summary_table
from analysis.tables.meaning import check_comparable, meaning_table
from analysis.tables.measures import MEASURES
from analysis.tables.pairs import CELL, MODEL_LAYER_N
from analysis.tables.paper import three_degrees
from analysis.tables.pareto import PLACE, as_csv, pareto_table
from analysis.tables.probing import probing_table
from analysis.tables.pursuits import (
    amortisation_table,
    certificates_table,
    readable_readings,
    recovery_table,
    throughput_table,
)
from analysis.tables.scale import scale_table
from analysis.tables.stability import stability_table
from analysis.tables.three_axes import three_axes_table
from analysis.tables.wins import comparable_arms, wins_table

_MOST_ROWS = 4  # rows of panels in a figure


def frontier(records: Records, options: Options, notes: bool = True) -> list[Output]:
    """Return the frontier over one storage axis; other axes than the default ones are added to its file name.

    Args:
        notes: whether standard error says which panels the figure leaves out.
    """
    x, y = options.x or "compression", options.y
    if options.published and (x, y) != ("compression", "ce_recovered"):
        raise NoRunsError("--published has points for --x compression --y ce_recovered only")
    # The CSV has every arm, the figure those that are readable together.
    table = chosen(frontier_table(records.runs, x, y), options)
    shown = readable("frontier", rows_to_draw(table, options, readable_arms(records.runs)), notes, over="x")
    name = _name_with_axes("frontier", x, y, "compression")
    name += "-published" if options.published else ""
    name += "-pareto" if options.pareto else ""
    best = pareto_table(chosen(records.everything, options), x, y, records.everything) if options.pareto else None
    outputs = one_figure_each(
        name, table, shown, _apart(shown), lambda rows: frontier_figure(rows, x, y, options.published, best)
    )
    outputs = [output._replace(table=renamed(output.table, {"x": x, "mean": y})) for output in outputs]
    if best is not None:
        outputs.append(Output(f"{name}-set", as_csv(where(best, best["pareto"]), x, y)))
    return outputs


def frontiers(records: Records, options: Options) -> list[Output]:
    """Return the frontier over each storage axis, for the command `all`."""
    each = [Options(options.arms, x=x) for x in X_AXES]
    return [output for i, one in enumerate(each) for output in frontier(records, one, notes=i == 0)]


def pareto(records: Records, options: Options) -> list[Output]:
    """Return the Pareto set, with all runs of a (model, layer) in one panel.

    Other axes than the default ones are added to the file name.
    """
    x = options.x or "stored_bytes"
    y = options.y
    table = pareto_table(chosen(records.everything, options), x, y, records.everything)
    name = _name_with_axes("pareto", x, y, "stored_bytes")
    outputs = one_figure_each(name, table, table, PLACE, lambda rows: pareto_figure(rows, x, y))
    return [output._replace(table=as_csv(output.table, x, y)) for output in outputs]


def _name_with_axes(name: str, x: str, y: str, default_x: str) -> str:
    return name + ("" if x == default_x else f"-{x}") + ("" if y == "ce_recovered" else f"-{y}")


def dominance(records: Records, options: Options) -> list[Output]:
    """Return a figure of the dominance table per (model, layer, n, k), and one table of all of them.

    Another measure than CE recovered is added to their names.
    """
    measure = MEASURES[options.measure]
    every = measure.rows(records)
    readings = chosen(every, options)
    table = dominance_table(readings, measure.column, every)
    competing = where(readings, readings["base_arm"] != arms.PCA)
    cells = pd.MultiIndex.from_frame(part(readable("dominance", competing), CELL))
    shown = where(table, pd.MultiIndex.from_frame(part(table, CELL)).isin(cells))
    name, latex = _name_with_measure("dominance", options), dominance_latex(table, measure.label)
    return one_figure_each(name, table, shown, CELL, lambda rows: dominance_figure(rows, measure.label), latex)


def iso_bytes(records: Records, options: Options) -> list[Output]:
    """Return a figure of sparse against dense at equal bytes per (model, layer, n, k), and one table of all of them.

    Cells where both kinds were measured are drawn. Another measure than CE recovered is added to the names.
    """
    measure = MEASURES[options.measure]
    every = measure.rows(records)
    table = iso_bytes_table(chosen(every, options), measure.column, every)
    both = [rows for _, rows in groups(table, CELL) if column(rows, "difference").notna().any()]
    shown = pd.concat(both) if both else table.iloc[:0]
    if not both:
        print("note: no figure of iso_bytes: no cell has dictionaries of both kinds", file=sys.stderr)
    name = _name_with_measure("iso_bytes", options)
    return one_figure_each(name, table, shown, CELL, lambda rows: iso_bytes_figure(rows, measure.label))


def dominances(records: Records, options: Options) -> list[Output]:
    """Return dominance by each measure that the records have, for the command `all`.

    Raises:
        NoRunsError: they have none.
    """
    outputs: list[Output] = []
    reasons: list[NoRunsError] = []
    for measure in MEASURES:
        try:
            outputs += dominance(records, replace(options, measure=measure))
        except NoRunsError as reason:
            reasons.append(reason)
    if not outputs:
        raise reasons[0]
    return outputs


def _name_with_measure(name: str, options: Options) -> str:
    return name + ("" if options.measure == Options.measure else f"-{options.measure}")


def amortisation(records: Records, options: Options) -> list[Output]:
    """Return the gain of reading codes by pursuit, and its cost: a figure per (model, layer, n)."""
    table = amortisation_table(records.readings)
    shown = readable("amortisation", _readings_to_draw(table, records, options), over="decoder_compression")
    return one_figure_each("amortisation", chosen(table, options), shown, MODEL_LAYER_N, amortisation_figure)


def throughput(records: Records, options: Options) -> list[Output]:
    """Return tokens a second against relative error for each way of reading codes: a figure per (model, layer, n)."""
    table = throughput_table(records.readings)
    shown = readable("throughput", _readings_to_draw(table, records, options))
    return one_figure_each("throughput", chosen(table, options), shown, MODEL_LAYER_N, throughput_figure)


def _readings_to_draw(table: pd.DataFrame, records: Records, options: Options) -> pd.DataFrame:
    """Return the rows of the arms asked for; where none were asked for, of those that a figure of readings shows.

    Those of the random dictionary are always among them.
    """
    if options.arms:
        wanted = set(chosen(table, options)["arm"])
        return where(table, [arm in wanted or arms.base(arm) == arms.FROZEN for arm in table["arm"]])
    return readable_readings(table, readable_arms(records.runs))


def certificates(records: Records, options: Options) -> list[Output]:
    """Return the identifiability and OMP ratios of each dictionary; figures show the expander by default."""
    table = certificates_table(chosen(records.runs, options))
    shown = readable("certificates", rows_to_draw(table, options, ["expander"]))
    return one_figure_each("certificates", table, shown, MODEL_LAYER_N, certificates_figure)


def recovery(records: Records, options: Options) -> list[Output]:
    """Return the phase transitions of the synthetic experiments, a figure for each noise; they have no arms."""
    table = recovery_table(records.recovery)
    return one_figure_each("recovery", table, table, ["noise"], recovery_figure)


def meaning(records: Records, options: Options) -> list[Output]:
    """Return which features of synthetic models the latents stand for, against stored bytes, beside the floor."""
    check_comparable(records.samples)
    table = chosen(meaning_table(records.samples), options)
    drawn = only_with_floor("meaning", table, "floor", ["features", "reading"])
    return [Output("meaning", table, meaning_figure(fullest("meaning", drawn, ["features"], ["reading"])))]


def probing(records: Records, options: Options) -> list[Output]:
    """Return how well the best 1, 2 and 5 latents tell labelled concepts, against stored bytes, beside the floor."""
    table = chosen(probing_table(records.probes), options)
    drawn = only_with_floor("probing", table, "floor", [*CELL, "family", "reading"])
    each = [*MODEL_LAYER_N, "family"]
    return one_figure_each("probing", table, fullest("probing", drawn, each, ["k", "reading"]), each, probing_figure)


def stability(records: Records, options: Options) -> list[Output]:
    """Return how alike SAEs are that differ in a seed alone, beside chance, the floor and the ceiling."""
    table = chosen(stability_table(records.pairs), options)
    return [Output("stability", table, stability_figure(table))]


def three_axes(records: Records, options: Options) -> list[Output]:
    """Return bytes, fidelity and meaning of the SAEs that have both measured, each beside the floor."""
    table = chosen(three_axes_table(records), options)
    drawn = only_with_floor("three_axes", table, "fidelity_floor", [*CELL, "reading"])
    shown = fullest("three_axes", drawn, MODEL_LAYER_N, ["k", "reading"])
    return one_figure_each("three_axes", table, shown, MODEL_LAYER_N, three_axes_figure)


def masks(records: Records, options: Options) -> list[Output]:
    """Return CE recovered and dead latents of the expander, clustered and pruned supports against d."""
    runs = chosen(records.runs, options)
    table = masks_table(runs, records.runs)
    windows = sorted(set(runs["dead_window_tokens"])) if "dead_window_tokens" in runs else []
    window = f", on {windows[0]:,.0f} tokens" if len(windows) == 1 else ""
    titles = {"dead_fraction": f"dead latents (share{window})"}
    shown = fullest("masks", readable("masks", table, over="d"), MODEL_LAYER_N, ["k"])
    return _lines("masks", table, shown, "d", D_LABEL, with_cost(table), titles=titles)


def supports(records: Records, options: Options) -> list[Output]:
    """Return CE recovered of every kind of support against d, and its difference to the expander's."""
    table = supports_table(chosen(records.runs, options), records.runs)
    shown = fullest("supports", readable("supports", table, over="d"), MODEL_LAYER_N, ["k"])
    return _lines("supports", table, shown, "d", D_LABEL, with_cost(table))


def matched(records: Records, options: Options) -> list[Output]:
    """Return the difference of the expander to dense SAEs at equal values, parameters and bytes against d."""
    table = matched_table(chosen(records.readings, options), records.readings)
    ways = {what: what.removeprefix("difference").lstrip(", ") for what in table[WHAT].unique()}
    titles = {what: f"CE recovered, expander minus dense,\n{way}" for what, way in ways.items()}
    return _lines("matched", table, readable("matched", table, over="d"), "d", D_LABEL, titles=titles)


def bits(records: Records, options: Options) -> list[Output]:
    """Return CE recovered of arms at 32 and fewer bits, and the latents that rounding changes, against stored bytes.

    The figure shows the best SAEs of each kind of arm (`best_of_bits`), marked by their bits. Where arms are asked for,
    it shows all of these, with a line for each way to few bits.
    """
    table = bits_table(chosen(records.runs, options), records.runs)
    x, x_label = "artifact_bytes", "stored bytes (size of sae.safetensors)"
    titles = {ROUNDED: "latents changed by rounding\n(share with correlation < .9)"}
    if options.arms:
        shown = readable("bits", table)
        return _lines("bits", table, shown, x, x_label, style_of_bits, ["base", "rounding"], titles=titles)
    shown = readable("bits", best_marked(table))
    return _lines("bits", table, shown, x, x_label, style_of_kind, ["kind"], titles=titles, marks=marks(shown))


def learning_curves(records: Records, options: Options) -> list[Output]:
    """Return FVU and dead latents against training tokens."""
    table = learning_table(chosen(records.runs, options), records.runs)
    drawn = rows_to_draw(main_degrees(table), options, readable_arms(records.runs))
    shown = fullest("learning_curves", readable("learning_curves", drawn), MODEL_LAYER_N, ["k"])
    style = by_degree(shown, by_line=True)
    return _lines("learning_curves", table, shown, "tokens", "training tokens", style, log_x=False, band=True)


def data_efficiency(records: Records, options: Options) -> list[Output]:
    """Return CE recovered against the tokens in the training pool."""
    table = data_table(chosen(records.everything, options), records.everything)
    shown = readable("data_efficiency", table)
    x_label = "tokens in the training pool"
    return _lines("data_efficiency", table, shown, "pool_tokens", x_label, by_degree(shown), ["arm", "d"])


def layers(records: Records, options: Options) -> list[Output]:
    """Return CE recovered layer by layer; the figure shows the expander at three d, and the dense arms, by default."""
    table = layers_table(chosen(records.runs, options), records.runs)
    shown = rows_to_draw(table, options, ["expander", *arms.DENSE])
    shown = where(shown, shown["d"].isna() | three_degrees(shown, ["model", "n", "k"]))
    # The layer is the axis: without it as a column there is one panel per model, n and k.
    shown = readable("layers", shown.assign(at_layer=shown["layer"], layer=""), over="at_layer")
    x_label = "layer (residual stream after this block)"
    return _lines("layers", table, shown, "at_layer", x_label, by_degree(shown), ["arm", "d"], log_x=False)


def iso_storage(records: Records, options: Options) -> list[Output]:
    """Return CE recovered against the number of atoms, of sparse dictionaries with as many decoder values."""
    table = iso_storage_table(chosen(records.runs, options), records.runs)
    # The number of atoms is the axis: in place of n, a panel's title has the values that d*n atoms share.
    shown = table.assign(n=[f"{values:,} / d" for values in table["values"]], what="ce_recovered")
    x_label = "n: atoms (more, with fewer values each)"
    return _lines("iso_storage", table, shown, "n_latents", x_label, floor_across=True)


def seeds(records: Records, options: Options) -> list[Output]:
    """Return how far CE recovered spreads over the seeds of each cell."""
    runs = chosen(records.runs, options)
    table = seeds_table(runs, records.runs)
    return [Output("seeds", table, seeds_figure(runs, table))]


def scale(records: Records, options: Options) -> list[Output]:
    """Return what very many atoms take: time, memory and bytes on disk, beside those of dense atoms."""
    table = scale_table(chosen(records.runs, options))
    return [Output("scale", table, scale_figure(table))]


def compressed(records: Records, options: Options) -> list[Output]:
    """Return what SAEs preserve that were made smaller, and how many of their latents, beside what they were."""
    table = compressed_table(chosen(records.everything, options))
    return [Output("compressed", table, compressed_figure(table))]


def _lines(name: str, table: pd.DataFrame, shown: pd.DataFrame, *args: Any, **options: Any) -> list[Output]:
    """Return `lines_figure` of the rows `shown`; of many rows of panels, a figure for each (model, layer, n)."""
    return one_figure_each(name, table, shown, _apart(shown), lambda rows: lines_figure(rows, *args, **options))


def _apart(shown: pd.DataFrame) -> list[str]:
    """Return what has a figure of its own: each (model, layer, n), where one figure would have many rows of panels."""
    rows = part(shown, [name for name in (*MODEL_LAYER_N, WHAT) if name in shown]).drop_duplicates()
    return MODEL_LAYER_N if len(rows) > _MOST_ROWS else []


def latents_summary(records: Records, options: Options) -> list[Output]:
    """Return how each arm's latents are used: a figure of the panel with most arms, and LaTeX of every panel.

    Both show arms trained one-shot and not rounded, or those asked for; the figure none in another basis or of nested
    prefixes unless asked for. The CSV has every arm.
    """
    runs = chosen(records.runs, options)
    table = summary_table(runs)
    shown = table if options.arms else among(table, "arm", list(set(plain(runs)["arm"])))
    shown = table if shown.empty else shown
    usual = shown if options.arms else where(shown, shown["arm"].map(arms.is_usual))
    figure = summary_figure(richest(shown if usual.empty else usual))
    return [Output("latents_summary", table, figure, latents_latex(shown))]


def wins(records: Records, options: Options) -> list[Output]:
    """Return arm against arm: a figure for each way of training and reading, one LaTeX table and one CSV.

    Figures and LaTeX have the pairs that `comparable_arms` keeps, in other bases and of nested prefixes only where arms
    are asked for; the CSV has all.
    """
    readings = chosen(records.readings, options)
    table = wins_table(readings)
    if table.empty:
        raise NoRunsError("no two arms share a cell")
    shown = comparable_arms(table, readings, usual=not options.arms)
    figures = [
        Output(f"wins-{pursuit or inference}", rows, wins_figure(rows))
        for (pursuit, inference), rows in groups(shown, ["pursuit", "inference"])
    ]
    return [Output("wins", table, latex=wins_latex(shown)), *figures]
