from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy.stats import ttest_ind

from analysis.frames import dicts, only
from analysis.read.sources import NoRunsError
from analysis.tables.meaning import check_comparable, meaning_table
from tests.analysis.synthetic import record, sampled


def row(table, **equal):
    (found,) = dicts(only(table, **equal))
    return found


def test_each_measure_stands_beside_the_floor_read_in_the_same_way(recorded):
    made = [sampled("expander", 8, seed, 0.3 + seed / 100, reading_gain=0.2) for seed in (0, 1, 2)]
    made += [sampled("frozen_random", 8, seed, 0.1, reading_gain=0.05) for seed in (0, 1, 2)]
    made += [sampled("frozen_random+mp_refit", 8, seed, 0.12 + seed / 50) for seed in (0, 1, 2)]
    table = meaning_table(recorded(*made).samples)
    one_shot = row(table, arm="expander", what="coverage", reading="topk")
    assert one_shot["mean"] == pytest.approx(0.31) and one_shot["seeds"] == 3
    assert one_shot["floor"] == pytest.approx(0.1)
    assert one_shot["above_floor"] == pytest.approx((0.31 - 0.1) / 0.9)
    by_pursuit = row(table, arm="expander", what="coverage", reading="mp_refit")
    assert by_pursuit["mean"] == pytest.approx(0.51)
    assert by_pursuit["floor"] == pytest.approx(0.15)  # the better of the two random dictionaries: .15 and .14
    assert set(only(table, arm="frozen_random+mp_refit")["reading"]) == {"mp_refit"}
    floor = row(table, arm="frozen_random", what="coverage", reading="topk")
    assert floor["above_floor"] == 0


def test_what_so_many_seeds_can_resolve_is_welchs_interval(recorded):
    ours, floors = [0.30, 0.34, 0.31], [0.10, 0.18, 0.13]
    made = [sampled("expander", 8, seed, value) for seed, value in enumerate(ours)]
    made += [sampled("frozen_random", 8, seed, value) for seed, value in enumerate(floors)]
    found = row(meaning_table(recorded(*made).samples), arm="expander", what="coverage", reading="topk")
    test = ttest_ind(ours, floors, equal_var=False)
    half = (test.confidence_interval(0.95).high - test.confidence_interval(0.95).low) / 2
    assert found["resolvable"] == pytest.approx(half, rel=1e-3)


def test_low_is_good_for_errors_and_some_measures_have_no_floor(recorded):
    made = [sampled("expander", 8, seed, 0.3, fvu=0.2) for seed in (0, 1)]
    made += [sampled("frozen_random", 8, seed, 0.1, fvu=0.5) for seed in (0, 1)]
    table = meaning_table(recorded(*made).samples)
    fvu = row(table, arm="expander", what="fvu", reading="topk")
    assert fvu["above_floor"] == pytest.approx(0.6) and fvu["resolvable"] == 0
    assert math.isnan(row(table, arm="expander", what="mcc_ceiling", reading="topk")["floor"])


def test_the_floor_is_of_the_same_d_where_there_is_one(recorded):
    made = [sampled("expander", d, 0, 0.3) for d in (4, 8)]
    made += [sampled("frozen_random", 4, 0, 0.1), sampled("frozen_random", 16, 0, 0.2)]
    table = meaning_table(recorded(*made).samples)
    assert row(table, arm="expander", d=4, what="coverage", reading="topk")["floor"] == pytest.approx(0.1)
    assert row(table, arm="expander", d=8, what="coverage", reading="topk")["floor"] == pytest.approx(0.2)
    assert math.isnan(row(table, arm="expander", d=4, what="coverage", reading="topk")["resolvable"])


def test_a_measure_that_a_run_has_not_is_left_out_and_no_floor_is_none(recorded):
    table = meaning_table(recorded(sampled("expander", 8, 0, 0.3, absorption=None)).samples)
    assert "absorption" not in set(table["what"])
    assert table["floor"].isna().all()


def test_saes_of_lms_and_of_synthetic_models_are_kept_apart(recorded):
    records = recorded(sampled("expander", 8, 0, 0.3), record("expander", 8, 16, 0, 0.7))
    assert len(records.runs) == 1 and len(records.samples) == 2
    with pytest.raises(NoRunsError, match="no SAE of a synthetic model"):
        _ = replace(records, records=tuple(r for r in records.records if r.get("kind") != "synthetic")).samples


def test_runs_of_different_recipes_are_not_put_into_one_mean(recorded):
    made = [sampled("expander", 8, seed, 0.3) for seed in (0, 1)]
    made[1]["spec"] = {**made[1]["spec"], "train": {**made[1]["spec"]["train"], "steps": 7}}
    with pytest.raises(NoRunsError, match="2 different recipes or models"):
        check_comparable(recorded(*made).samples)
