from __future__ import annotations

import math

import pandas as pd
import pytest

from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.frontier import at_every_k, frontier_table, readable_arms
from analysis.tables.stats import half_interval
from sweep.store.records import SCHEMA, write_record
from tests.analysis.synthetic import M, N, record


@pytest.fixture
def runs(tmp_path):
    """The folder of a small grid: expander, dense_matched and dense_tied at two k and three seeds."""
    folder = tmp_path / "runs"
    for seed in (0, 1, 2):
        for k in (4, 8):
            write_record(folder, record("dense_tied", M, k, seed, 0.96 + 0.01 * seed))
            for d in (2, 4, 8):
                write_record(folder, record("expander", d, k, seed, 0.7 + 0.02 * d + 0.01 * seed))
            write_record(folder, record("dense_matched", 16, k, seed, 0.8, n_latents=N // 4, degree=M))
    return folder


def test_means_intervals_compression_and_retained(runs):
    table = frontier_table(Records.read(runs).runs)
    row = table[(table.arm == "expander") & (table.k == 4) & (table.degree == 4)].iloc[0]
    assert row["x"] == M / 4 and row["seeds"] == 3
    assert row["mean"] == pytest.approx(0.79)
    assert row["half_interval"] == pytest.approx(4.303 * 0.01 / math.sqrt(3), rel=1e-3)
    ratios = [(0.78 + 0.01 * seed) / (0.96 + 0.01 * seed) for seed in (0, 1, 2)]
    assert row["retained"] == pytest.approx(sum(ratios) / 3)
    assert row["retained_half_interval"] == pytest.approx(half_interval(ratios))
    assert row["retained_half_interval"] < row["half_interval"] / 5  # paired: seeds that are good are good for both
    assert (table[table.arm == "dense_matched"]["x"] == 4).all()


def test_retained_uses_only_seeds_that_the_dense_arm_has(runs):
    write_record(runs, record("expander", 2, 4, 7, 0.1))
    row = frontier_table(Records.read(runs).runs).query("arm == 'expander' and k == 4 and d == 2").iloc[0]
    assert row["seeds"] == 4 and row["retained_seeds"] == 3 and row["retained"] > 0.7


def test_runs_of_another_recipe_are_not_one_more_seed(runs, capsys):
    trial = record("expander", 4, 4, 9, 0.1, run_id="trial")
    trial["spec"] = {**trial["spec"], "train": {"steps": 50, "batch_size": 256}}
    write_record(runs, trial)
    row = frontier_table(Records.read(runs).runs).query("arm == 'expander' and k == 4 and degree == 4").iloc[0]
    assert row["seeds"] == 3 and row["mean"] == pytest.approx(0.79)
    assert capsys.readouterr().err.count("1 run(s)") == 1


def test_another_pool_is_left_out_and_a_run_without_recipe_is_not(runs, capsys):
    write_record(runs, record("expander", 4, 4, 9, 0.1, pool=5000))
    untrained = record("expander-8bit", 4, 4, 0, 0.77)
    del untrained["spec"]["train"]
    write_record(runs, untrained)
    table = Records.read(runs).runs
    assert "activations.tokens=5000" in capsys.readouterr().err
    assert 9 not in set(table["seed"]) and "expander-8bit" in set(table["arm"])


def test_a_repeated_cell_and_seed_counts_once(runs, capsys):
    later = record("expander", 4, 4, 0, 0.5, run_id="again", finished="2026-02-01T00:00:00+00:00")
    write_record(runs, later)
    table = Records.read(runs).runs
    same = table.query("arm == 'expander' and k == 4 and d == 4 and seed == 0")
    assert same["run_id"].tolist() == ["again"]
    assert "repeat a cell" in capsys.readouterr().err


def test_one_seed_has_no_interval():
    assert math.isnan(half_interval([1.0])) and math.isnan(half_interval([1.0, math.nan]))


def test_pca_stands_at_every_k_once(recorded):
    expanders = [record("expander", 2, k, 0, 0.8) for k in (4, 8)]
    pcas = [record("pca", 2, 4, 0, 0.5, degree=M, n_latents=r) for r in (8, 16)]
    found = recorded(*expanders, *pcas)
    everywhere = at_every_k(found.runs)
    assert sorted(everywhere.query("arm == 'pca'")["k"]) == [4, 4, 8, 8] and len(everywhere) == 6
    assert found.runs.query("arm == 'pca'")["d"].isna().all()


def test_compression_counts_decoder_values_that_come_from_a_seed(recorded):
    table = recorded(record("frozen_random", 4, 4, 0, 0.6, values=0)).runs
    assert table["decoder_compression"].tolist() == [M / 4]


def test_the_best_support_is_the_one_that_gains_most_on_the_expander(records):
    assert "pruned_retuned" in readable_arms(records.runs) and "clustered" not in readable_arms(records.runs)


def test_unreadable_failed_and_dropped_records_are_said_once_and_the_rest_used(runs, capsys):
    (runs / "broken").mkdir()
    (runs / "broken" / "record.json").write_text("{")
    write_record(runs, {"schema": SCHEMA, "run_id": "f", "status": "failed", "error": "x"})
    for run_id in ("g", "i"):
        dropped = {"step": 300, "why": "FVU 0.9 at 30 % of training is more"}
        write_record(
            runs, {**record("expander", 2, 8, 0, 0.99), "run_id": run_id, "status": "dropped", "dropped": dropped}
        )
    write_record(runs, {"schema": SCHEMA, "run_id": "h", "status": "complete"})
    found = Records.read(runs)
    assert len(found.runs) == len(found.everything) == 30 and len(found.readings) == 30
    said = capsys.readouterr().err
    assert said.count("broken/record.json cannot be read") == 1 and said.count("run h cannot") == 1
    assert said.count("1 failed run") == 1 and said.count("2 dropped run(s) left out") == 1


def test_a_source_without_a_complete_run_is_an_error(tmp_path):
    with pytest.raises(NoRunsError, match="no such folder"):
        Records.read(tmp_path / "none")
    with pytest.raises(NoRunsError, match="no complete run"):
        Records.read(tmp_path)


def test_records_of_earlier_versions_can_be_read(recorded):
    old = record("expander", 4, 4, 0, 0.8)
    for key in ("inference", "theory", "config"):
        del old[key]
    del old["storage"]["value_bits"], old["spec"]["activations"]["tokens"]
    found = recorded(old)
    assert found.runs["value_bits"].tolist() == [32] and pd.isna(found.runs["train_tokens"]).all()
    with pytest.raises(NoRunsError, match="how its codes were read"):
        _ = found.readings
