"""The page's other charts: training curves, dead latents, and the controls, from the tables of the same commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from analysis.arms import DENSE, PCA, base
from analysis.draw.shared import D_LABEL, LABELS
from analysis.frames import dicts, groups, part, where
from analysis.output import Options, chosen
from analysis.page.charts import PANEL_CHOICES, Choice, axis, chart, y_measure
from analysis.page.encode import encoded
from analysis.read.records import Records
from analysis.tables.controls import bits_table, layers_table, masks_table, matched_table, seeds_table, supports_table
from analysis.tables.curves import data_table, learning_table
from analysis.tables.latents import MEASURES, summary_table
from analysis.tables.paper import measured
from analysis.tables.pursuits import amortisation_table, certificates_table, recovery_table

Section = dict[str, Any]
CURVE_POINTS = 50  # of each line on the page; records keep up to 200
_D = axis("d", D_LABEL, log=True)
_SEEDS = "Points are means over seeds with 95 % t intervals; levels are arms without d."


class Made(NamedTuple):
    """How a section of the page is made."""

    title: str
    make: Callable[[Records, Options, list[str]], Section]  # the last: the arms drawn at first


def curves(records: Records, options: Options, shown: list[str]) -> Section:
    table = learning_table(chosen(records.runs, options))
    how = "Measured in training, on the batches trained on: means over seeds, bands are 95 % t intervals."
    choices = [*PANEL_CHOICES, Choice(["d"], "d", or_none=True), _what(table)]
    table = as_lines(table)
    return chart([axis("tokens", "training tokens")], [y_measure()], choices, shown=shown, how=how, band=True,
                 table=encoded(table, 4))  # fmt: skip


def as_lines(table: pd.DataFrame) -> pd.DataFrame:
    """A row per line, its tokens, mean and half_interval as lists of at most CURVE_POINTS, the last always kept."""
    cell = ["model", "layer", "n", "k", "arm", "d", "what"]
    rows: list[dict[str, object]] = []
    for key, line in groups(table, cell):
        points = dicts(line.sort_values("tokens"))
        thin = points[:: len(points) // -CURVE_POINTS][::-1]  # backwards: the last one is kept
        lists = {name: [point[name] for point in thin] for name in ("tokens", "mean", "half_interval")}
        rows.append({**dict(zip(cell, key, strict=True)), **lists, "seeds": max(point["seeds"] for point in points)})
    return pd.DataFrame(rows)


def dead(records: Records, options: Options, shown: list[str]) -> Section:
    table = _sparse(chosen(measured(records.runs), options))
    windows = sorted(set(records.runs["dead_window_tokens"])) if "dead_window_tokens" in records.runs else []
    of = f" of {windows[0]:,.0f}" if len(windows) == 1 else ""
    how = f"Share of latents that fire at none{of} held-out tokens. {_SEEDS}"
    y = [y_measure(LABELS[name], name, f"{name}_half_interval") for name in ("dead_fraction", "relative_error")]
    columns = ["model", "layer", "n", "k", "arm", "d", "n_latents", "decoder_compression", "seeds"]
    table = part(table, [*columns, *[name for one in y for name in (one["mean"], one["half"])]])
    x = [_D, axis("decoder_compression", "compression (times)", log=True)]
    return chart(x, y, PANEL_CHOICES, shown=shown, levels=DENSE, how=how, table=encoded(table))


def latents(records: Records, options: Options, shown: list[str]) -> Section:
    table = _sparse(summary_table(chosen(records.runs, options)))
    y = [y_measure(name, key, f"{key}_half_interval") for key, name in MEASURES.items() if key in table]
    names = [name for one in y for name in (one["mean"], one["half"])]
    table = part(table, ["model", "layer", "n", "k", "arm", "d", "seeds", *names])
    how = f"How latents are used on held-out text. {_SEEDS}"
    return chart([_D], y, PANEL_CHOICES, shown=shown, levels=DENSE, how=how, table=encoded(table))


def _sparse(table: pd.DataFrame) -> pd.DataFrame:
    """All but PCA: its components are no latents that fire or not."""
    return where(table, table["arm"].map(base) != PCA)


def masks(records: Records, options: Options, shown: list[str]) -> Section:
    return _over_d(masks_table(chosen(records.runs, options)), "Random, clustered and pruned supports. " + _SEEDS)


def supports(records: Records, options: Options, shown: list[str]) -> Section:
    table = supports_table(chosen(records.runs, options))
    return _over_d(table, "Every kind of support; the difference is paired by seed, above 0 beats the expander.")


def matched(records: Records, options: Options, shown: list[str]) -> Section:
    table = matched_table(chosen(records.readings, options))
    how = (
        "Expander minus the dense SAE of equal values, parameters or bytes, paired by seed: above 0 the expander wins."
    )
    return _over_d(table, how)


def _over_d(table: pd.DataFrame, how: str) -> Section:
    return chart([_D], [y_measure()], [*PANEL_CHOICES, _what(table)], how=how, table=encoded(table))


def _what(table: pd.DataFrame) -> Choice:
    """The measures of a table, the first of them at first."""
    known = {**LABELS, "difference": "CE recovered, minus the expander's (same seed)"}
    names = {what: known.get(what, f"CE recovered, {what}") for what in table["what"].unique()}
    return Choice(["what"], "measure", first=next(iter(names)), names=names)


def bits(records: Records, options: Options, shown: list[str]) -> Section:
    table = bits_table(chosen(records.runs, options)).drop(columns="what")
    x = [axis("artifact_bytes", "stored bytes (size of sae.safetensors)", log=True, unit="bytes")]
    how = "The same SAEs with values of 32, 8 and 4 bits; further left is smaller. " + _SEEDS
    return chart(x, [y_measure(LABELS["ce_recovered"])], PANEL_CHOICES, ["base", "bits"], how=how, table=encoded(table))


def layers(records: Records, options: Options, shown: list[str]) -> Section:
    table = layers_table(chosen(records.runs, options)).drop(columns="what")
    choices = [Choice(["model", "n"], "LM, n"), Choice(["k"], "k"), Choice(["d"], "d", or_none=True)]
    x, y = [axis("layer", "layer (residual stream after this block)")], [y_measure(LABELS["ce_recovered"])]
    how = "The same arms layer by layer. " + _SEEDS
    return chart(x, y, choices, shown=["expander", *DENSE], how=how, table=encoded(table))


def seeds(records: Records, options: Options, shown: list[str]) -> Section:
    table = seeds_table(chosen(records.runs, options)).dropna(subset=["half_interval"])
    y = [y_measure("standard deviation of CE recovered over seeds", "standard_deviation", ""),
         y_measure("CE recovered: mean, 95 % interval")]  # fmt: skip
    return chart([_D], y, PANEL_CHOICES, levels=DENSE, how="How far seeds spread, of cells with five seeds or more.",
                 table=encoded(table))  # fmt: skip


def amortisation(records: Records, options: Options, shown: list[str]) -> Section:
    table = amortisation_table(chosen(records.readings, options))
    x = [axis("multiply_adds", "multiply-adds to find a token's codes", log=True),
         axis("learned_decoder_values", "learned decoder values", log=True)]  # fmt: skip
    y = [y_measure("CE recovered"), y_measure("gain over the own encoder (paired)", "gain", "gain_half_interval")]
    how = "What each way of reading the same dictionaries preserves, and what finding the codes costs."
    shown = [arm for arm in shown if base(arm) != PCA]  # it has no codes to read
    return chart(x, y, PANEL_CHOICES, ["arm", "inference"], shown=shown, how=how, table=encoded(table))


def data_efficiency(records: Records, options: Options, shown: list[str]) -> Section:
    table = data_table(chosen(records.everything, options)).drop(columns="what")
    x = [axis("pool_tokens", "tokens in the training pool", log=True)]
    return chart(x, [y_measure(LABELS["ce_recovered"])], PANEL_CHOICES, ["arm", "d"],
                 how="The same training on fewer distinct tokens. " + _SEEDS, table=encoded(table))  # fmt: skip


def certificates(records: Records, options: Options, shown: list[str]) -> Section:
    table = certificates_table(chosen(records.runs, options)).rename(columns={"degree": "d"})
    choices = [*PANEL_CHOICES, Choice(["ratio"], "ratio"), Choice(["sets"], "sets of atoms", "observed")]
    how = (
        "Lower bounds of the identifiability and OMP ratios over sets of k' atoms; recovery is certified only below 1."
    )
    return chart([axis("at", "k'", log=True)], [y_measure("ratio (at least)")], choices, ["arm", "d"],
                 shown=["expander"], how=how, log_y=True, table=encoded(table))  # fmt: skip


def recovery(records: Records, options: Options, shown: list[str]) -> Section:
    table = recovery_table(records.recovery)
    choices = [Choice(["d_in", "n"], "m, n"), Choice(["values", "codes", "noise"], "entries, codes, noise"),
               Choice(["algorithm"], "algorithm")]  # fmt: skip
    y = [y_measure("share of trials with every atom found", "exact_recovery", ""),
         y_measure("share of atoms found", "support_recovery", "")]  # fmt: skip
    return chart([axis("k", "k: planted atoms", log=True)], y, choices, ["mask", "d"],
                 how="Sparse codes planted in random dictionaries, without any LM.", table=encoded(table))  # fmt: skip


MAIN = {"curves": Made("Training curves", curves), "dead": Made("Dead latents", dead)}
CONTROLS = {
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
