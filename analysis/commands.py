"""The commands that draw: from records to a table, and from the table to its figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import arms
from analysis.draw.dominance import dominance_figure
from analysis.draw.frontier import frontier_figure
from analysis.draw.latents import richest, summary_figure
from analysis.draw.panels import readable
from analysis.draw.pareto import pareto_figure
from analysis.draw.pursuits import amortisation_figure, certificates_figure, recovery_figure, throughput_figure
from analysis.draw.seeds import seeds_figure
from analysis.draw.shared import D_LABEL, WHAT, Style, arm_style, lines_figure
from analysis.draw.wins import wins_figure
from analysis.frames import dicts, groups, mean_by, part, where
from analysis.latex.latents import latents_latex
from analysis.latex.verdicts import comparable_arms, dominance_latex, wins_latex
from analysis.output import Options, Output, chosen, drawn
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.controls import bits_table, layers_table, masks_table, matched_table, seeds_table, supports_table
from analysis.tables.curves import data_table, learning_table, main_degrees
from analysis.tables.dominance import dominance_table
from analysis.tables.frontier import X_AXES, frontier_table, readable_arms
from analysis.tables.latents import summary_table
from analysis.tables.pairs import CELL, PANEL
from analysis.tables.paper import three_degrees
from analysis.tables.pareto import as_csv, pareto_table
from analysis.tables.pursuits import (
    amortisation_table,
    certificates_table,
    readable_readings,
    recovery_table,
    throughput_table,
)
from analysis.tables.wins import wins_table

_BITS = {32: ("o", "-"), 8: ("s", "--"), 4: ("^", ":")}


def frontier(records: Records, options: Options, say: bool = True) -> list[Output]:
    """One frontier; axes other than the default ones are part of its name. `say`: name what its figure leaves out."""
    x, y = options.x or "compression", options.y
    if options.published and (x, y) != ("compression", "ce_recovered"):
        raise NoRunsError("--published has points for --x compression --y ce_recovered only")
    # Every arm goes into the CSV, those that are readable together into the figure.
    table = chosen(frontier_table(records.runs, x, y), options)
    shown = readable("frontier", drawn(table, options, readable_arms(records.runs)), say=say)
    name = _on_axes("frontier", x, y, "compression")
    name += "-published" if options.published else ""
    name += "-pareto" if options.pareto else ""
    best = pareto_table(chosen(records.everything, options), x, y) if options.pareto else None
    figure = frontier_figure(shown, x, y, options.published, best) if len(shown) else None
    outputs = [Output(name, table.rename(columns={"x": x, "mean": y}), figure)]
    if best is not None:
        outputs.append(Output(f"{name}-set", as_csv(where(best, best["pareto"]), x, y)))
    return outputs


def frontiers(records: Records, options: Options) -> list[Output]:
    """The frontier over each storage axis, for `all`."""
    found = [Options(options.arms, x=x) for x in X_AXES]
    return [output for i, one in enumerate(found) for output in frontier(records, one, say=i == 0)]


def pareto(records: Records, options: Options) -> list[Output]:
    """All runs of a (model, layer) in one panel; axes other than the default ones are part of the name."""
    x = options.x or "stored_bytes"
    table = pareto_table(chosen(records.everything, options), x, options.y)
    figure = pareto_figure(table, x, options.y)
    return [Output(_on_axes("pareto", x, options.y, "stored_bytes"), as_csv(table, x, options.y), figure)]


def _on_axes(name: str, x: str, y: str, own_x: str) -> str:
    return name + ("" if x == own_x else f"-{x}") + ("" if y == "ce_recovered" else f"-{y}")


def dominance(records: Records, options: Options) -> list[Output]:
    """A figure per (model, layer, n), one table of all."""
    readings = chosen(records.readings, options)
    table = dominance_table(readings)
    cells = pd.MultiIndex.from_frame(part(readable("dominance", readings), CELL))
    shown = where(table, pd.MultiIndex.from_frame(part(table, CELL)).isin(cells))
    panels = groups(shown, PANEL)
    figures = [(_named("dominance", key, len(panels)), rows) for key, rows in panels]
    outputs = [Output(name, rows, dominance_figure(rows)) for name, rows in figures]
    if len(outputs) == 1 and len(shown) == len(table):
        return [outputs[0]._replace(latex=dominance_latex(table))]
    return [Output("dominance", table, latex=dominance_latex(table)), *outputs]


def _named(name: str, panel: tuple[Any, ...], panels: int) -> str:
    return name if panels == 1 else f"{name}-{panel[0]}-L{panel[1]}-n{panel[2]}"


def amortisation(records: Records, options: Options) -> list[Output]:
    table = amortisation_table(chosen(records.readings, options))
    shown = table if options.arms else readable_readings(table, readable_arms(records.runs))
    shown = readable("amortisation", shown)
    return [Output("amortisation", table, amortisation_figure(shown) if len(shown) else None)]


def throughput(records: Records, options: Options) -> list[Output]:
    table = throughput_table(chosen(records.readings, options))
    shown = table if options.arms else readable_readings(table, readable_arms(records.runs))
    shown = readable("throughput", shown)
    return [Output("throughput", table, throughput_figure(shown) if len(shown) else None)]


def certificates(records: Records, options: Options) -> list[Output]:
    table = certificates_table(chosen(records.runs, options))
    shown = drawn(table, options, ["expander"])
    shown = readable("certificates", shown)
    return [Output("certificates", table, certificates_figure(shown) if len(shown) else None)]


def recovery(records: Records, options: Options) -> list[Output]:
    table = recovery_table(records.recovery)
    return [Output("recovery", table, recovery_figure(table))]


def masks(records: Records, options: Options) -> list[Output]:
    runs = chosen(records.runs, options)
    table = masks_table(runs)
    windows = sorted(set(runs["dead_window_tokens"])) if "dead_window_tokens" in runs else []
    on = f", on {windows[0]:,.0f} tokens" if len(windows) == 1 else ""
    titles = {"dead_fraction": f"dead latents (share{on})"}
    shown = readable("masks", table)
    return [Output("masks", table, _lines(shown, "d", D_LABEL, _with_cost(table), titles=titles))]


def supports(records: Records, options: Options) -> list[Output]:
    table = supports_table(chosen(records.runs, options))
    shown = readable("supports", table)
    return [Output("supports", table, _lines(shown, "d", D_LABEL, _with_cost(table)))]


def _with_cost(table: pd.DataFrame) -> Callable[[dict[str, Any]], Style]:
    """Arms' own styles; one that trained on more tokens than the expander says how many times as many."""
    tokens = {row["arm"]: row["train_tokens"] for row in dicts(mean_by(table, ["arm"], ["train_tokens"]))}
    least = tokens.get("expander", min(tokens.values()))

    def style(row: dict[str, Any]) -> Style:
        own = arm_style(row["arm"])
        times = tokens[row["arm"]] / least
        return own._replace(label=f"{own.label} ({times:.2g}x training)") if times > 1.05 else own

    return style


def matched(records: Records, options: Options) -> list[Output]:
    table = matched_table(chosen(records.readings, options))
    titles = {what: f"CE recovered, expander minus dense,\n{_way(what)}" for what in table[WHAT].unique()}
    figure = _lines(readable("matched", table), "d", D_LABEL, titles=titles)
    return [Output("matched", table, figure)]


def _way(what: str) -> str:
    return what.removeprefix("difference").lstrip(", ")


def bits(records: Records, options: Options) -> list[Output]:
    table = bits_table(chosen(records.runs, options))

    def style(row: dict[str, Any]) -> Style:
        marker, line = _BITS.get(row["bits"], ("D", "-."))
        label = f"{arms.display(row['base'])}, {row['bits']} bits"
        return Style(label, arms.colour(row["base"]), marker, line, hollow=row["bits"] != 32)

    figure = _lines(
        readable("bits", table), "artifact_bytes", "stored bytes (size of sae.safetensors)", style, ["base", "bits"]
    )
    return [Output("bits", table, figure)]


def learning_curves(records: Records, options: Options) -> list[Output]:
    table = learning_table(chosen(records.runs, options))
    shown = readable("learning_curves", drawn(main_degrees(table), options, readable_arms(records.runs)))
    style = _by_degree(shown)
    figure = _lines(shown, "tokens", "training tokens", style, log_x=False, band=True)
    return [Output("learning_curves", table, figure)]


def data_efficiency(records: Records, options: Options) -> list[Output]:
    table = data_table(chosen(records.everything, options))
    shown = readable("data_efficiency", table)
    figure = _lines(shown, "pool_tokens", "tokens in the training pool", _by_degree(shown), ["arm", "d"])
    return [Output("data_efficiency", table, figure)]


def layers(records: Records, options: Options) -> list[Output]:
    runs = chosen(records.runs, options)
    table = layers_table(runs)
    shown = drawn(table, options, ["expander", *arms.DENSE])
    shown = where(shown, shown["d"].isna() | three_degrees(shown, ["model", "n", "k"]))
    # One panel per model, n and k: the layer is the axis.
    shown = shown.assign(at_layer=shown["layer"], layer="")
    figure = lines_figure(shown, "at_layer", "layer (residual stream after this block)", _by_degree(shown),
                          ["arm", "d"], log_x=False)  # fmt: skip
    return [Output("layers", table, figure)]


def seeds(records: Records, options: Options) -> list[Output]:
    runs = chosen(records.runs, options)
    table = seeds_table(runs)
    return [Output("seeds", table, seeds_figure(runs, table))]


def _lines(table: pd.DataFrame, *args: Any, **options: Any) -> Figure | None:
    """`lines_figure`; none where no panel is readable."""
    return lines_figure(table, *args, **options) if len(table) else None


def _by_degree(table: pd.DataFrame) -> Callable[[dict[str, Any]], Style]:
    """An arm's colour, and a marker for each d."""
    degrees = sorted(table["d"].dropna().unique())
    markers = dict(zip(degrees, "o^sDvP*Xhd" * (1 + len(degrees) // 10), strict=False))

    def style(row: dict[str, Any]) -> Style:
        own = arm_style(row["arm"])
        if row["d"] != row["d"]:
            return own
        return own._replace(label=f"{own.label}, d = {row['d']:.0f}", marker=markers[row["d"]])

    return style


def latents_summary(records: Records, options: Options) -> list[Output]:
    """A figure of the panel (model, layer, n, k) with most arms, LaTeX of all; both of arms trained one-shot and not
    rounded, or those asked for. The CSV has every arm."""
    table = summary_table(chosen(records.runs, options))
    drawn = table if options.arms else where(table, table["arm"].map(arms.plain))
    drawn = table if drawn.empty else drawn
    return [Output("latents_summary", table, summary_figure(richest(drawn)), latents_latex(drawn))]


def wins(records: Records, options: Options) -> list[Output]:
    """Arm against arm; the CSV has every pair and reading."""
    table = wins_table(chosen(records.readings, options))
    if table.empty:
        raise NoRunsError("no two arms share a cell")
    drawn = comparable_arms(table)
    return [Output("wins", table, wins_figure(drawn) if len(drawn) else None, wins_latex(drawn))]
