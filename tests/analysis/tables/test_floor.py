from __future__ import annotations

import math

import pytest

from analysis.__main__ import main
from analysis.frames import dicts, only
from analysis.tables.controls import matched_table, supports_table
from analysis.tables.floor import with_floor
from analysis.tables.frontier import frontier_table
from analysis.tables.stats import over_seeds
from sweep.store.records import write_record
from tests.analysis.synthetic import M, reading, record

BY = ["model", "layer", "n", "k", "arm", "reading", "d"]


def row(table, **equal):
    (found,) = dicts(only(table, **equal))
    return found


def test_the_floor_is_the_better_random_dictionary_of_the_same_cell_and_reading(recorded):
    made = [record("expander", 8, 16, seed, 0.8) for seed in (0, 1)]
    made += [record("frozen_random", 8, 16, seed, 0.6 + seed / 50) for seed in (0, 1)]
    made += [record("frozen_random", 8, 8, seed, 0.9) for seed in (0, 1)]  # of another k
    made += [record("frozen_random+mp_refit", 8, 16, seed, 0.7) for seed in (0, 1)]  # read in another way
    found = row(frontier_table(recorded(*made).runs), arm="expander", k=16)
    assert found["floor"] == pytest.approx(0.61) and found["floor_d"] == 8
    assert found["above_floor"] == pytest.approx((0.8 - 0.61) / 0.39)
    assert found["resolvable"] == pytest.approx(12.706 * 0.01, rel=1e-3)  # the expander's seeds do not differ


def test_readings_have_floors_of_their_own(recorded):
    made = []
    for arm, gain in (("expander", 0.1), ("frozen_random", 0.25)):
        one = record(arm, 8, 16, 0, 0.6)
        one["inference"]["mp_refit"] = reading(one["metrics"], 1000, gain)
        made.append(one)
    made.append(record("frozen_random+mp_refit", 8, 16, 0, 0.95))
    readings = recorded(*made).readings
    assert set(only(readings, arm="frozen_random+mp_refit")["reading"]) == {"mp_refit"}
    table = with_floor(over_seeds(readings, BY, "ce_recovered"), readings, "ce_recovered")
    assert row(table, arm="expander", reading="topk")["floor"] == pytest.approx(0.6)
    assert row(table, arm="expander", reading="mp_refit")["floor"] == pytest.approx(0.95)


def test_where_low_is_good_the_floor_is_the_lowest_and_above_it_is_below(recorded):
    made = [record("expander", 8, 16, 0, 0.8), record("frozen_random", 8, 16, 0, 0.6)]
    found = row(frontier_table(recorded(*made).runs, y="fvu"), arm="expander")
    assert found["floor"] == pytest.approx(0.4) and found["above_floor"] == pytest.approx(0.5)


def test_a_cell_without_a_random_dictionary_and_pca_have_no_floor(recorded, tmp_path, capsys):
    made = [record("expander", 8, 16, 0, 0.8), record("expander", 8, 8, 0, 0.7), record("frozen_random", 4, 8, 0, 0.5)]
    made.append(record("pca", 8, 8, 0, 0.9, degree=M, n_latents=8))
    table = frontier_table(recorded(*made).runs)
    assert math.isnan(row(table, arm="expander", k=16)["floor"])
    assert math.isnan(row(table, arm="pca", k=8)["floor"])
    other_d = row(table, arm="expander", k=8)
    assert (other_d["floor"], other_d["floor_d"]) == (0.5, 4)
    for one in made:
        write_record(tmp_path / "again", one)
    assert main(["frontier", "--runs", str(tmp_path / "again"), "--out", str(tmp_path)]) == 0
    assert f"no floor for 1 of {len(table)} rows of frontier" in capsys.readouterr().err


def test_the_floor_stays_where_other_arms_are_asked_for(recorded):
    made = [record(arm, 8, 16, 0, ce) for arm, ce in (("expander", 0.8), ("banded", 0.7), ("frozen_random", 0.5))]
    runs = recorded(*made).runs
    table = supports_table(only(runs, pursuit="").query("arm != 'frozen_random'"), runs)
    assert set(only(table, what="ce_recovered")["floor"]) == {0.5}
    assert only(table, what="difference")["floor"].isna().all()


def test_a_difference_to_a_dense_sae_stands_beside_that_of_a_random_dictionary(recorded):
    made = []
    for seed, more in enumerate((0.0, 0.01)):
        made += [record("expander", 8, 16, seed, 0.8 + more), record("frozen_random", 8, 16, seed, 0.6)]
        made.append(record("dense_matched", 8, 16, seed, 0.85 + more, degree=M, n_latents=64))
    (found,) = dicts(matched_table(recorded(*made).readings))
    assert found["mean"] == pytest.approx(-0.05) and found["floor"] == pytest.approx(-0.255)


def test_the_floor_has_the_basis_of_the_arm_where_one_was_measured(recorded):
    arms = ("expander", "expander@reflections2", "expander@fourier", "dense_matched@reflections2")
    made = [record(arm, 8, 16, 0, 0.9) for arm in arms]
    made += [record("frozen_random", 8, 16, 0, 0.6), record("frozen_random@reflections2", 8, 16, 0, 0.8)]
    table = frontier_table(recorded(*made).runs)
    assert [row(table, arm=arm)["floor"] for arm in arms] == pytest.approx([0.6, 0.8, 0.6, 0.6])
