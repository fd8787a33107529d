from __future__ import annotations

import math
import re

import pandas as pd
import pytest

from analysis.commands import latents_summary, wins
from analysis.latex.deployment import table2, table3
from analysis.latex.paper import table1, table7, table10
from analysis.latex.verdicts import dominance_latex
from analysis.latex.write import Math, escape, latex_table, number, pm, whole
from analysis.output import Options, chosen
from analysis.read.sources import NoRunsError
from analysis.tables.deployment import encoder_to_omp, storage_table
from analysis.tables.dominance import dominance_table
from analysis.tables.latents import summary_table
from analysis.tables.paper import measured
from analysis.tables.published import beside, published
from analysis.tables.pursuits import amortisation_table
from tests.analysis.synthetic import M, N, record


def rows_of(latex):
    """Return the cells of each row of a LaTeX table's body."""
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].replace(r"\endhead", "")
    return [line.removesuffix(r" \\").split(" & ") for line in body.strip().splitlines()]


def test_latex_escapes_text_and_leaves_math():
    assert escape("a_b & 50 % of {x} #1 $ ^ ~ \\") == (
        r"a\_b \& 50 \% of \{x\} \#1 \$ \textasciicircum{} \textasciitilde{} \textbackslash{}"
    )
    table = pd.DataFrame([{"who_won": "arm_a", "by": pm(0.5, 0.01)}, {"who_won": "arm_b", "by": number(math.nan)}])
    text = latex_table(table, "100 % sure")
    assert r"who\_won & by \\" in text and r"arm\_a & $0.500 \pm 0.010$ \\" in text and r"arm\_b & -- \\" in text
    assert r"100 \% sure" in text and r"\begin{tabular}{lr}" in text and r"\toprule" in text


def test_numbers_are_written_with_their_interval_or_alone():
    assert pm(0.12345, math.nan) == Math("$0.123$") and pm(-0.5, 0.1, 2, signed=True) == Math(r"$-0.50 \pm 0.10$")
    assert whole(16384.0) == Math(r"$16\,384$") and whole(math.inf) == Math(r"$\infty$")
    assert str(whole(math.nan)) == "--"


def test_long_tables_go_over_pages():
    table = pd.DataFrame([{"a": f"row {i}", "b": Math("$1$")} for i in range(60)])
    assert r"\begin{longtable}{lr}" in latex_table(table, "") and r"\endhead" in latex_table(table, "")


def test_repeated_leading_cells_are_blank():
    table = pd.DataFrame([{"LM": "a", "arm": "x", "v": Math("1")}, {"LM": "a", "arm": "y", "v": Math("1")}])
    assert [row[0] for row in rows_of(latex_table(table, ""))] == ["a", ""]


def test_published_cells_are_those_of_the_paper_under_one_formula():
    cells = published().set_index(["model", "layer", "arm", "d", "k", "inference"]).sort_index()
    three = ("pythia-70m-deduped", 3)
    assert cells.loc[(*three, "expander", 7, 64, "encoder"), "ce_recovered"] == pytest.approx(0.817, abs=5e-4)
    assert cells.loc[(*three, "dense_matched", 30, 64, "encoder"), "ce_recovered"] == pytest.approx(0.866, abs=5e-4)
    assert cells.loc[(*three, "clustered", 200, 64, "encoder"), "dead_fraction"] == pytest.approx(0.062, abs=5e-4)
    qwen = ("qwen2.5-3b", 12)
    assert cells.loc[(*qwen, "expander", 7, 64, "omp"), "ce_recovered"] == pytest.approx(0.901, abs=5e-4)
    assert cells.loc[(*qwen, "dense_matched_own", 30, 64, "omp"), "n_latents"] == 240
    assert not published().duplicated(["model", "layer", "n", "arm", "d", "k", "inference"]).any()


def test_a_published_cell_stands_beside_the_same_cell_of_ours_alone(recorded):
    made = []
    for k in (32, 64):
        made.append(record("expander", 7, k, 0, 0.8, layer=3))
        made[-1]["labels"]["model"] = "pythia-70m-deduped"
        made[-1]["axes"]["n"], made[-1]["sizes"] = 4096, {"d_in": 512, "n_latents": 4096, "degree": 7, "k": k}
    found = recorded(*made)
    table = measured(found.runs).set_index("k")
    assert table.loc[64, "published_ce_recovered"] == pytest.approx(0.817, abs=5e-4)
    assert table.loc[32, "published_relative_error"] == pytest.approx(0.6, abs=0.05)
    output = table1(found, Options())[0]
    assert output.table["k"].tolist() == [64] and "published CE" in output.latex and "2607.01799" in output.latex
    sizes = {"layer": 3, "n": 4096, "d": 7.0, "k": 64}
    elsewhere = beside(
        pd.DataFrame([{"model": "tiny", "arm": "expander", "inference": "encoder", **sizes}]), ["ce_recovered"]
    )
    assert elsewhere["published_ce_recovered"].isna().all()


def test_table1_has_three_degrees_and_dense_at_one_k(records):
    output = table1(records, Options())[0]
    assert set(output.table["k"]) == {16} and "published" not in output.latex
    assert set(output.table["arm"]) == {"expander", "frozen_random", "dense_tied", "dense_warmtied"}
    mine = records.runs.query("layer == 1 and k == 16 and arm == 'expander' and d == 2")["ce_recovered"]
    row = output.table.query("layer == 1 and arm == 'expander' and d == 2").iloc[0]
    assert row["ce_recovered"] == pytest.approx(mine.mean()) and row["seeds"] == 3
    assert rf"$32\times$ & ${1.4 * (1 - mine.mean()):.3f} \pm" in output.latex


def test_table2_counts_the_bytes_of_values_indices_and_biases(recorded):
    arms = [record("expander", 8, 8, 0, 0.8), record("dense_tied", 8, 8, 0, 0.9, degree=M)]
    four, frozen = record("expander-4bit", 8, 8, 0, 0.8), record("frozen_random", 8, 8, 0, 0.5, values=0)
    four["storage"]["value_bits"], frozen["storage"]["value_bits"] = 4, 0
    found = recorded(*arms, four, frozen, record("dense_low_rank", 8, 8, 0, 0.7))
    table = storage_table(found.runs).set_index("arm")
    values, indices, biases = 8 * N * 4 / 1024, 8 * N, (N + M) * 4 / 1024
    row = table.loc["expander"]
    assert row["values_kib"] == values and row["with_packed_indices_kib"] == values + indices * 6 / 8 / 1024
    assert row["with_biases_kib"] == values + indices * 4 / 1024 + biases
    assert row["file_kib"] == arms[0]["storage"]["artifact_bytes"] / 1024
    dense = table.loc["dense_tied"]
    assert dense["with_int32_indices_kib"] == dense["values_kib"] == M * N * 4 / 1024
    low_rank = table.loc["dense_low_rank"]  # its atoms have few values and no rows of their own
    assert low_rank["with_int32_indices_kib"] == low_rank["values_kib"] == values
    assert table.loc["expander-4bit", "values_kib"] == values / 8 and table.loc["frozen_random", "values_kib"] == 0
    assert "expander, 4 bits" in table2(found, Options())[0].latex


def test_gains_of_table3_are_paired_by_run(records):
    table = encoder_to_omp(amortisation_table(records.readings))
    row = table.query("layer == 1 and k == 8 and arm == 'expander' and d == 2").iloc[0]
    assert row["gain"] == pytest.approx(0.03) and row["gain_half_interval"] == pytest.approx(0, abs=1e-9)
    assert row["omp"] == pytest.approx(row["encoder"] + 0.03) and row["seeds"] == 3
    latex = table3(records, Options())[0].latex
    assert r"$+0.030 \pm 0.000$" in latex and "8 bits" not in latex


def test_table7_and_10_put_layers_and_ks_in_columns(records):
    seven = table7(records, Options())[0]
    assert "L1 & L2" in seven.latex and len(rows_of(seven.latex)) == 6
    ten = table10(records, Options())[0]
    assert "CE, k=8 & error, k=8 & dead, k=8 & CE, k=16" in ten.latex and len(rows_of(ten.latex)) == 10


def test_dominance_and_wins_are_written_in_latex(records, recorded):
    output = wins(records, Options())[0]
    assert len(output.table) > len(rows_of(output.latex)) and re.search(r"\$-0\.\d+ \\pm", output.latex)
    latex = dominance_latex(dominance_table(records.readings))
    assert "one-shot expander" in latex and "pruned, re-tuned, d=8" in latex and "by mp\\_refit" in latex
    with pytest.raises(NoRunsError, match="share a cell"):
        wins(recorded(record("expander", 2, 8, 0, 0.8)), Options())


def test_latents_are_averaged_over_seeds_with_nested_names(records, recorded):
    table = summary_table(records.runs)
    row = table.query("layer == 1 and k == 8 and arm == 'expander' and d == 2").iloc[0]
    assert row["novelty_novel_fraction"] == pytest.approx(0.5 / 2**0.5) and row["seeds"] == 3
    assert row["novelty_novel_fraction_null"] == pytest.approx(0.97) and "firing_rate_histogram" not in table
    assert math.isnan(table.query("arm == 'dense_tied'")["supports_mean_overlap"].iloc[0])
    assert "novel, null" in latents_summary(records, Options())[0].latex
    with pytest.raises(NoRunsError):
        summary_table(recorded(record("expander", 2, 8, 0, 0.8)).runs)


def test_arms_can_be_asked_for_with_wildcards(records):
    found = chosen(records.runs, Options(arms=("expander*", "pca")))
    assert {"expander", "expander-8bit", "pca", "expander_balanced"} <= set(found["arm"])
    assert "dense_tied" not in set(found["arm"])
    with pytest.raises(NoRunsError, match="--arms expandr: no run of it here; there are expander"):
        chosen(records.runs, Options(arms=("expandr",)))
    assert set(chosen(records.runs, Options(), ["pca"])["arm"]) == {"pca"}
