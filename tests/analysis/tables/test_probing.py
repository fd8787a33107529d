from __future__ import annotations

import math
from dataclasses import replace

import pytest

from analysis.frames import dicts, only
from analysis.read.sources import NoRunsError
from analysis.tables.probing import ALL_SETS, mean_of_sets, probing_table
from tests.analysis.synthetic import probed, record


def row(table, **equal):
    (found,) = dicts(only(table, **equal))
    return found


def test_scores_stand_beside_coordinates_and_the_floor(recorded):
    made = [probed(record("expander", 8, 16, seed, 0.7), 0.7 + seed / 10) for seed in (0, 1)]
    made += [probed(record("frozen_random", 8, 16, seed, 0.5), 0.6) for seed in (0, 1)]
    made += [probed(record("frozen_random+mp_refit", 8, 16, seed, 0.5), 0.9) for seed in (0, 1)]
    table = probing_table(recorded(*made).probes)
    ours = row(table, arm="expander", set="a", best=1)
    assert ours["mean"] == pytest.approx((0.71 + 0.81) / 2) and ours["seeds"] == 2  # draws are averaged first
    assert ours["reading"] == "topk" and ours["floor"] == pytest.approx(0.61)  # read by a pursuit is another floor
    assert ours["above_floor"] == pytest.approx((0.76 - 0.61) / 0.39)
    assert ours["raw"] == pytest.approx(0.7) and ours["raw_all"] == pytest.approx(0.9)
    mean = row(table, arm="expander", set=ALL_SETS, best=5)
    assert mean["mean"] == pytest.approx(0.76 + 0.1 + 0.05)
    assert row(table, arm="frozen_random+mp_refit", set="b", best=2)["reading"] == "mp_refit"
    assert set(mean_of_sets(table)["set"]) == {ALL_SETS} and set(table["best"]) == {1, 2, 5}


def test_without_a_random_control_there_is_no_floor(recorded):
    table = probing_table(recorded(probed(record("expander", 8, 16, 0, 0.7), 0.7)).probes)
    assert table["floor"].isna().all() and math.isnan(row(table, set="a", best=1)["above_floor"])


def test_runs_that_were_not_probed_are_left_out_and_said(recorded):
    records = recorded(probed(record("expander", 8, 16, 0, 0.7), 0.7), record("expander", 4, 16, 0, 0.6))
    assert set(records.probes["d"]) == {8}
    failed = record("expander", 8, 16, 1, 0.7) | {"probing": {"code": {"error": "no file"}}}
    with pytest.raises(NoRunsError, match="no run was probed"):
        _ = replace(records, records=(failed,)).probes
