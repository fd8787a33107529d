"""The data that the page holds: the numbers of the commands' own tables."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from analysis import arms
from analysis.__main__ import main
from analysis.frames import only, where
from analysis.output import Options
from analysis.page.charts import styles
from analysis.page.contexts import LATENTS, contexts_section, first_of_each_arm, spread
from analysis.page.controls import CURVE_POINTS
from analysis.page.encode import encoded, script_json
from analysis.page.meaning import FLOOR_ARM
from analysis.page.runs import link
from analysis.page.write import page_data
from analysis.read.sources import NoRunsError
from analysis.tables.bits import bits_table
from analysis.tables.controls import layers_table, masks_table, matched_table, supports_table
from analysis.tables.curves import data_table
from analysis.tables.dominance import dominance_table
from analysis.tables.frontier import X_AXES, Y_AXES, frontier_table
from analysis.tables.meaning import meaning_table
from analysis.tables.measures import MEASURES
from analysis.tables.probing import probing_table
from analysis.tables.pursuits import amortisation_table, certificates_table, recovery_table
from analysis.tables.three_axes import three_axes_table
from sweep.store.records import write_record
from tests.analysis.page.conftest import latent, write_contexts
from tests.analysis.synthetic import record, sampled

KEYS = ["model", "layer", "n", "arm", "k", "d", "n_latents", "degree", "x"]


def table(found):
    """Return a table as the page's script sees it."""
    columns = {
        name: column if isinstance(column, list) else [column["of"][place] for place in column["at"]]
        for name, column in found["columns"].items()
    }
    assert all(len(column) == found["rows"] for column in columns.values())
    return pd.DataFrame(columns)


def written(page):
    """Return the data in a page's file."""
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def sections(data):
    return {section["id"]: section for section in data["sections"]}


@pytest.fixture(scope="module")
def data(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    assert main(["report", "--runs", str(study), "--out", str(out)]) == 0
    return written(out / "report.html")


@pytest.mark.parametrize("x", X_AXES)
def test_the_page_has_the_frontier_of_the_command_on_every_axis(data, records, x):
    (axis,) = (axis for axis in sections(data)["frontier"]["x"] if axis["key"] == x)
    here = table(axis["table"])
    by_omp = only(records.readings, inference="omp").drop(columns="inference")
    for y in Y_AXES:
        assert_same_frontier(only(here, inference="encoder"), frontier_table(records.runs, x, y), y)
        assert_same_frontier(only(here, inference="omp"), frontier_table(by_omp, x, y), y)


def test_the_page_has_the_numbers_of_the_frontier_in_the_csv(data, study, tmp_path):
    assert main(["frontier", "--runs", str(study), "--out", str(tmp_path)]) == 0
    there = pd.read_csv(tmp_path / "frontier.csv").rename(columns={"compression": "x", "ce_recovered": "mean"})
    here = only(table(sections(data)["frontier"]["x"][0]["table"]), inference="encoder")
    assert_same_frontier(here, there, "ce_recovered")


def assert_same_frontier(here, there, y):
    there = there.assign(x=[float(f"{x:.7g}") for x in there["x"]])
    found = here.merge(there, on=KEYS, suffixes=("", "_there"), validate="one_to_one")
    assert len(found) == len(here) == len(there) > 10
    assert np.allclose(found[y], found["mean"], rtol=1e-6)
    assert np.allclose(found[f"{y}_half"].astype(float), found["half_interval"], rtol=1e-6, equal_nan=True)
    assert (found["seeds"] == found["seeds_there"]).all()


def test_a_point_names_the_runs_it_is_the_mean_of(data):
    runs = table(data["runs"])
    points = only(table(sections(data)["frontier"]["x"][0]["table"]), inference="encoder")
    for _, point in points.iterrows():
        assert len(point["runs"]) == point["seeds"]
        assert np.isclose(runs["ce_recovered"][point["runs"]].mean(), point["ce_recovered"], rtol=1e-6)
        assert set(runs["arm"][point["runs"]]) == {point["arm"]}


TABLES = {
    "dominance": lambda records: dominance_table(records.readings),
    "masks": lambda records: masks_table(records.runs),
    "supports": lambda records: supports_table(records.runs),
    "matched": lambda records: matched_table(records.readings),
    "bits": lambda records: bits_table(records.runs),
    "layers": lambda records: layers_table(records.runs),
    "amortisation": lambda records: amortisation_table(records.readings),
    "data_efficiency": lambda records: data_table(records.everything),
    "certificates": lambda records: certificates_table(records.runs).rename(columns={"degree": "d"}),
    "recovery": lambda records: recovery_table(records.recovery),
}


@pytest.mark.parametrize("name, make", TABLES.items())
def test_every_other_section_has_the_table_of_its_command(data, records, name, make):
    here, there = table(sections(data)[name]["table"]), make(records)
    if name == "dominance":
        assert set(here["measure"]) == {measure.label for measure in MEASURES.values()}
        here = only(here, measure="CE recovered").drop(columns="measure").reset_index(drop=True)
    assert set(here) <= set(there) and len(here) == len(there) > 0
    for column in here:
        if pd.api.types.is_numeric_dtype(there[column]):
            known = there[column].replace(np.inf, np.nan).astype(float)  # JSON has no infinity
            assert np.allclose(here[column].astype(float), known, rtol=1e-6, equal_nan=True), column
        else:
            assert here[column].fillna("").tolist() == there[column].fillna("").tolist(), column


MEANING = {
    "meaning": lambda records: meaning_table(records.samples),
    "probing": lambda records: probing_table(records.probes),
}


@pytest.mark.parametrize("name, make", MEANING.items())
def test_what_latents_mean_stands_beside_a_level_of_the_floor(data, records, name, make):
    here, there = table(sections(data)[name]["table"]), make(records)
    arms = where(here, here["arm"] != FLOOR_ARM)
    assert len(arms) == len(there) and np.allclose(arms["mean"].astype(float), there["mean"], rtol=1e-6)
    floors = only(here, arm=FLOOR_ARM)
    assert len(floors) and set(floors["mean"]) <= {float(f"{value:.7g}") for value in there["floor"].dropna()}
    assert FLOOR_ARM in sections(data)[name]["levels"] and data["arms"][FLOOR_ARM]["name"].startswith("floor")


def test_both_sides_of_the_three_axes_are_on_the_page(data, records):
    here, there = table(sections(data)["three_axes"]["table"]), three_axes_table(records)
    arms = where(here, here["arm"] != FLOOR_ARM)
    for side in ("fidelity", "meaning"):
        assert np.allclose(only(arms, side=side)["mean"].astype(float), there[side], rtol=1e-6)


def test_records_of_known_features_alone_make_a_page(recorded, tmp_path):
    found = page_data(
        recorded(sampled("expander", 8, 0, 0.3), sampled("frozen_random", 8, 0, 0.1)), Options(), tmp_path
    )
    here = sections(found)
    assert "missing" in here["frontier"] and "missing" not in here["meaning"] and "missing" not in here["dominance"]
    assert found["about"]["synthetic"] == 2 and set(found["arms"]) >= {"expander", "frozen_random"}


def test_curves_are_thinned_and_keep_their_ends(recorded, tmp_path):
    steps = [128 * step for step in range(1, 201)]
    curves = {"tokens": steps, "fvu": [1 / step for step in steps], "dead_fraction": [0.0] * 200}
    found = recorded(record("expander", 4, 8, 0, 0.7, curves=curves))
    lines = table(sections(page_data(found, Options(), tmp_path))["curves"]["table"])
    (fvu,) = only(lines, what="fvu").to_dict("records")
    assert len(fvu["tokens"]) == len(fvu["mean"]) == CURVE_POINTS and fvu["tokens"][-1] == steps[-1]
    assert np.isclose(fvu["mean"][-1], 1 / steps[-1], rtol=1e-3)


def test_a_section_that_the_records_cannot_fill_says_what_would_fill_it(recorded, tmp_path):
    found = sections(page_data(recorded(record("expander", 4, 8, 0, 0.7)), Options(), tmp_path))
    assert "missing" not in found["frontier"] and "arms such as expander-8bit" in found["bits"]["missing"]
    assert "eval.contexts=5" in found["contexts"]["missing"] and "learning curves" in found["curves"]["missing"]


def test_options_choose_the_arms_k_and_layer_of_the_page(study, tmp_path, capsys):
    place = ["report", "--runs", str(study), "--out", str(tmp_path)]
    assert main([*place, "--arms", "expander,pca", "--k", "8", "--layer", "1"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    data = written(tmp_path / "report.html")
    runs = table(data["runs"])
    assert set(runs["arm"]) == {"expander", "pca"} and set(runs["layer"]) == {1}
    assert set(runs.loc[runs["arm"] == "expander", "k"]) == {8}
    points = table(sections(data)["frontier"]["x"][0]["table"])
    assert set(points["arm"]) == {"expander", "pca"} and sections(data)["frontier"]["shown"] == []
    assert main([*place, "--arms", "nothing"]) == 1
    assert "--arms nothing: no run of it here" in capsys.readouterr().err


def test_a_wrong_folder_ends_with_one_line(tmp_path, study, capsys):
    assert main(["report", "--runs", str(tmp_path / "none")]) == 1
    (tmp_path / "file").write_text("")
    assert main(["report", "--runs", str(study), "--out", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].startswith("error: --runs") and "cannot be written" in said[1]


def test_failed_and_unreadable_runs_are_counted(tmp_path, capsys):
    write_record(tmp_path / "runs", record("expander", 4, 8, 0, 0.7))
    write_record(tmp_path / "runs", {**record("expander", 4, 8, 1, 0.7), "status": "failed"})
    (tmp_path / "runs" / "torn").mkdir()
    (tmp_path / "runs" / "torn" / "record.json").write_text("{")
    assert main(["report", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 0
    assert "2 failed or unreadable left out" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert written(tmp_path / "report.html")["about"]["runs"] == 1


def test_links_go_to_a_url_or_a_folder_beside_the_page(tmp_path):
    (tmp_path / "my runs" / "ab#1").mkdir(parents=True)
    run = {"run_id": "ab#1"}
    assert link(run, tmp_path / "my runs", tmp_path / "out") == "../my%20runs/ab%231/"
    assert link({**run, "url": "https://wandb.ai/x/y"}, None, tmp_path) == "https://wandb.ai/x/y"
    assert link({**run, "url": "javascript:alert(1)"}, None, tmp_path) is None


def test_contexts_are_of_the_best_run_of_each_arm_and_of_rates_spread_out(tmp_path, recorded):
    results = (("expander", 0, 0.7), ("expander", 1, 0.8), ("banded", 0, 0.6), ("clustered", 0, 0.9))
    made = [record(arm, 4, 8, seed, ce) for arm, seed, ce in results]
    found = recorded(*made)
    for one in made[:3]:
        write_contexts(tmp_path / "runs", one["run_id"], [latent(i, rate=i / 1000) for i in range(1, 101)])
    (tmp_path / "runs" / made[2]["run_id"] / "contexts.jsonl.gz").write_bytes(b"no gzip")
    place = {run: at for at, run in enumerate(found.everything["run_id"])}
    section = contexts_section(found.everything, found.folder, place)
    assert [one["run"] for one in section["of"]] == [place[made[1]["run_id"]], place[made[0]["run_id"]]]
    rates = [rate for _, rate, _ in section["of"][0]["latents"]]
    assert len(rates) == LATENTS and rates[0] == 0.1 and rates[-1] == 0.001 and rates == sorted(rates, reverse=True)
    assert section["of"][0]["texts"] == ["def", " main", "\n"] and section["of"][0]["live"] == 100
    with pytest.raises(NoRunsError, match="eval.contexts=5"):
        contexts_section(found.everything, None, place)


def test_the_best_run_of_each_arm_and_the_most_frequent_latent_come_first():
    results = (("a", 0.5), ("a", 0.9), ("b", 0.1), ("a", 0.7), ("b", 0.2))
    runs = [{"arm": arm, "ce_recovered": ce, "run_id": str(ce)} for arm, ce in results]
    assert [run["ce_recovered"] for run in first_of_each_arm(runs)] == [0.9, 0.2, 0.7, 0.1, 0.5]
    assert [one["latent"] for one in spread([latent(i, rate=i) for i in range(3)], 40)] == [2, 1, 0]


def test_numbers_lists_and_hostile_texts_become_safe_json():
    found = encoded(pd.DataFrame({"a": [1.0, np.nan, np.inf], "b": ["x", "y", "x"], "c": [[1], [1], None]}))
    assert found["columns"]["a"] == [1, None, None] and found["columns"]["b"] == {"of": ["x", "y"], "at": [0, 1, 0]}
    assert found["columns"]["c"] == {"of": [[1], None], "at": [0, 0, 1]}
    hostile = "</script><!--<script>&\u2028\ud800"
    text = script_json([hostile])
    assert json.loads(text) == [hostile] and text.isascii() and not set("<>&") & set(text)


def test_every_arm_has_a_symbol_on_the_page():
    known = [*arms.SPARSE, *arms.DENSE, *arms.MATCHED, *arms.RIVALS, arms.PCA, "an-arm-of-tomorrow"]
    assert list(styles(known)) == arms.in_order(known)
