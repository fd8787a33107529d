"""The page's other charts: training curves, dead latents, and the controls, from the tables of the same commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from analysis.arms import DENSE, FROZEN, PCA, base
from analysis.draw.shared import D_LABEL, LABELS
from analysis.frames import dicts, groups, part, where
from analysis.output import Options, chosen
from analysis.page.charts import PANEL_CHOICES, Choice, chart, x_axis, y_axis
from analysis.page.encode import encoded
from analysis.page.meaning import meaning, probing, three_axes
from analysis.read.records import Records
from analysis.tables.bits import ROUNDED, best_of_bits, bits_table
from analysis.tables.controls import (
    layers_table,
    masks_table,
    matched_table,
    seeds_table,
    supports_table,
)
from analysis.tables.curves import data_table, learning_table
from analysis.tables.latents import MEASURES, summary_table
from analysis.tables.paper import measured
from analysis.tables.pursuits import amortisation_table, certificates_table, recovery_table

Section = dict[str, Any]
CURVE_POINTS = 50  # points of each line on the page; records keep up to 200
_D = x_axis("d", D_LABEL, log=True)
_ROUNDED_LABEL = "latents whose activations rounding changes (share with correlation below .9)"
_SEEDS = "Points are means over seeds with 95 % t intervals; levels are arms without d."


class Made(NamedTuple):
    """A section of the page: its title, and the function that makes it."""

    title: str
    make: Callable[[Records, Options, list[str]], Section]  # the last argument: the arms drawn at first


def curves(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of measures over training tokens."""
    table = learning_table(chosen(records.runs, options))
    how = "Measured in training, on the batches trained on: means over seeds, bands are 95 % t intervals."
    x = [x_axis("tokens", "training tokens")]
    choices = [*PANEL_CHOICES, Choice(["d"], "d", or_none=True), _measure_choice(table)]
    return chart(x, [y_axis()], choices, shown=shown, how=how, band=True, table=encoded(as_lines(table), 4))


def as_lines(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per line, with lists of its tokens, mean and half_interval.

    The lists have at most CURVE_POINTS values each, and the last point of the line is always kept.
    """
    cell = ["model", "layer", "n", "k", "arm", "d", "what"]
    rows: list[dict[str, object]] = []
    for key, line in groups(table, cell):
        points = dicts(line.sort_values("tokens"))
        thin = points[:: len(points) // -CURVE_POINTS][::-1]  # backwards: the last one is kept
        lists = {name: [point[name] for point in thin] for name in ("tokens", "mean", "half_interval")}
        rows.append({**dict(zip(cell, key, strict=True)), **lists, "seeds": max(point["seeds"] for point in points)})
    return pd.DataFrame(rows)


def dead(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of dead latents and of relative error, against d or compression."""
    table = _without_pca(chosen(measured(records.runs), options))
    windows = sorted(set(records.runs["dead_window_tokens"])) if "dead_window_tokens" in records.runs else []
    number = f" of {windows[0]:,.0f}" if len(windows) == 1 else ""
    how = f"Share of latents that fire at none{number} held-out tokens. {_SEEDS}"
    y = [y_axis(LABELS[name], name, f"{name}_half_interval") for name in ("dead_fraction", "relative_error")]
    columns = ["model", "layer", "n", "k", "arm", "d", "n_latents", "decoder_compression", "seeds"]
    table = part(table, [*columns, *_columns_of(y)])
    x = [_D, x_axis("decoder_compression", "compression (times)", log=True)]
    return chart(x, y, PANEL_CHOICES, shown=shown, levels=DENSE, how=how, table=encoded(table))


def latents(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of how latents are used, a measure at a time, against d."""
    table = _without_pca(summary_table(chosen(records.runs, options)))
    y = [y_axis(name, key, f"{key}_half_interval") for key, name in MEASURES.items() if key in table]
    table = part(table, ["model", "layer", "n", "k", "arm", "d", "seeds", *_columns_of(y)])
    how = f"How latents are used on held-out text. {_SEEDS}"
    return chart([_D], y, PANEL_CHOICES, shown=shown, levels=DENSE, how=how, table=encoded(table))


def _columns_of(y_axes: list[dict[str, Any]]) -> list[str]:
    return [name for axis in y_axes for name in (axis["mean"], axis["half"])]


def _without_pca(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out PCA, whose components are no latents that fire or not."""
    return where(table, table["arm"].map(base) != PCA)


def masks(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of random, clustered and pruned supports, against d."""
    return _over_d(
        masks_table(chosen(records.runs, options), records.runs), "Random, clustered and pruned supports. " + _SEEDS
    )


def supports(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of every kind of support, against d."""
    table = supports_table(chosen(records.runs, options), records.runs)
    return _over_d(table, "Every kind of support; the difference is paired by seed, above 0 beats the expander.")


def matched(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of the expander against dense SAEs of equal size, against d."""
    table = matched_table(chosen(records.readings, options), records.readings)
    sizes = "equal values, parameters or bytes"
    return _over_d(table, f"Expander minus the dense SAE of {sizes}, paired by seed: above 0 the expander wins.")


def _over_d(table: pd.DataFrame, how: str) -> Section:
    return chart([_D], [y_axis()], [*PANEL_CHOICES, _measure_choice(table)], how=how, table=encoded(table))


def _measure_choice(table: pd.DataFrame) -> Choice:
    """Return the choice among the measures of a table; the first of them is chosen at first."""
    known = {**LABELS, "difference": "CE recovered, minus the expander's (same seed)", ROUNDED: _ROUNDED_LABEL}
    names = {what: known.get(what, f"CE recovered, {what}") for what in table["what"].unique()}
    return Choice(["what"], "measure", first=next(iter(names)), names=names)


def bits(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of CE recovered, and of the latents that rounding changes, for values of 32 and fewer bits."""
    table = bits_table(chosen(records.runs, options), records.runs)
    x = [x_axis("artifact_bytes", "stored bytes (size of sae.safetensors)", log=True, unit="bytes")]
    how = "SAEs with values of 32 and fewer bits, rounded after training or in it; further left is smaller. " + _SEEDS
    return chart(
        x,
        [y_axis()],
        [*PANEL_CHOICES, _measure_choice(table)],
        ["base", "rounding"],
        shown=list(best_of_bits(table)["arm"].unique()),
        how=how,
        table=encoded(table),
    )


def layers(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of CE recovered against the layer."""
    table = layers_table(chosen(records.runs, options), records.runs).drop(columns="what")
    choices = [Choice(["model", "n"], "LM, n"), Choice(["k"], "k"), Choice(["d"], "d", or_none=True)]
    x, y = [x_axis("layer", "layer (residual stream after this block)")], [y_axis(LABELS["ce_recovered"])]
    how = "The same arms layer by layer. " + _SEEDS
    return chart(x, y, choices, shown=["expander", FROZEN, *DENSE], how=how, table=encoded(table))


def seeds(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of how far the seeds of a cell spread, against d."""
    table = seeds_table(chosen(records.runs, options), records.runs).dropna(subset=["half_interval"])
    spread = y_axis("standard deviation of CE recovered over seeds", "standard_deviation", "")
    y = [spread, y_axis("CE recovered: mean, 95 % interval")]
    how = "How far seeds spread, of cells with five seeds or more."
    return chart([_D], y, PANEL_CHOICES, levels=DENSE, how=how, table=encoded(table))


def amortisation(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of what each way of reading codes preserves, against what finding them costs."""
    table = amortisation_table(chosen(records.readings, options))
    cost = x_axis("multiply_adds", "multiply-adds to find a token's codes", log=True)
    x = [cost, x_axis("learned_decoder_values", "learned decoder values", log=True)]
    y = [y_axis("CE recovered"), y_axis("gain over the own encoder (paired)", "gain", "gain_half_interval")]
    how = "What each way of reading the same dictionaries preserves, and what finding the codes costs."
    shown = [arm for arm in shown if base(arm) != PCA]  # it has no codes to read
    return chart(x, y, PANEL_CHOICES, ["arm", "inference"], shown=shown, how=how, table=encoded(table))


def data_efficiency(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of CE recovered against the tokens in the training pool."""
    table = data_table(chosen(records.everything, options), records.everything).drop(columns="what")
    x, y = [x_axis("pool_tokens", "tokens in the training pool", log=True)], [y_axis(LABELS["ce_recovered"])]
    how = "The same training on fewer distinct tokens. " + _SEEDS
    return chart(x, y, PANEL_CHOICES, ["arm", "d"], how=how, table=encoded(table))


def certificates(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of the ratios that would certify recovery, against k', the sparsity of the codes."""
    table = encoded(certificates_table(chosen(records.runs, options)).rename(columns={"degree": "d"}))
    choices = [*PANEL_CHOICES, Choice(["ratio"], "ratio"), Choice(["sets"], "sets of atoms", "observed")]
    ratios = "Lower bounds of the identifiability and OMP ratios over sets of k' atoms"
    how = f"{ratios}; recovery is certified only below 1."
    x, y = [x_axis("at", "k'", log=True)], [y_axis("ratio (at least)")]
    return chart(x, y, choices, ["arm", "d"], shown=["expander"], how=how, log_y=True, table=table)


def recovery(records: Records, options: Options, shown: list[str]) -> Section:
    """Return the chart of synthetic recovery: the share of trials and of atoms that each algorithm recovers."""
    table = recovery_table(records.recovery)
    kinds = Choice(["values", "codes", "noise"], "entries, codes, noise")
    choices = [Choice(["d_in", "n"], "m, n"), kinds, Choice(["algorithm"], "algorithm")]
    trials = y_axis("share of trials with every atom found", "exact_recovery", "")
    y = [trials, y_axis("share of atoms found", "support_recovery", "")]
    how = "Sparse codes planted in random dictionaries, without any LM."
    x = [x_axis("k", "k: planted atoms", log=True)]
    return chart(x, y, choices, ["mask", "d"], how=how, table=encoded(table))


MAIN = {"curves": Made("Training curves", curves), "dead": Made("Dead latents", dead)}
CONTROLS = {
    "three_axes": Made("Bytes, fidelity and meaning", three_axes),
    "meaning": Made("Which known features latents stand for", meaning),
    "probing": Made("Which labelled concepts latents tell", probing),
    "masks": Made("Masks", masks),
    "supports": Made("Supports", supports),
    "matched": Made("Against matched dense SAEs", matched),
    "amortisation": Made("Reading codes by pursuit", amortisation),
    "bits": Made("Bits a value", bits),
    "layers": Made("Layers", layers),
    "seeds": Made("Seeds", seeds),
    "data_efficiency": Made("Data efficiency", data_efficiency),
    "latents_summary": Made("What latents are like", latents),
    "certificates": Made("Certificates", certificates),
    "recovery": Made("Synthetic recovery", recovery),
}
