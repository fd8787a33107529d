from __future__ import annotations

import pytest

from analysis.frames import dicts, only
from analysis.read.sources import NoRunsError
from analysis.tables.three_axes import one_side, three_axes_table
from tests.analysis.synthetic import probed, reading, record, sampled


def row(table, **equal):
    (found,) = dicts(only(table, **equal))
    return found


def test_each_side_is_of_the_same_reading_and_beside_its_floor(recorded):
    made = []
    for arm, ce, accuracy in (("expander", 0.7, 0.7), ("frozen_random", 0.5, 0.6)):
        for seed in (0, 1):
            one = probed(record(arm, 8, 16, seed, ce + seed / 50), accuracy)
            one["inference"]["omp"] = reading(one["metrics"], 5000, 0.1)
            one["probing"]["code"]["readings"]["omp"] = one["probing"]["code"]["readings"]["encoder"]
            made.append(one)
    table = three_axes_table(recorded(*made))
    assert set(table["reading"]) == {"topk", "omp"} and set(table["model"]) == {"tiny, code sets"}
    one_shot, by_omp = (row(table, arm="expander", reading=name) for name in ("topk", "omp"))
    assert one_shot["fidelity"] == pytest.approx(0.71) and by_omp["fidelity"] == pytest.approx(0.81)
    assert by_omp["fidelity_floor"] == pytest.approx(0.61)
    assert by_omp["meaning"] == pytest.approx(0.86) and by_omp["meaning_floor"] == pytest.approx(0.76)
    assert (by_omp["fidelity_measure"], by_omp["meaning_measure"]) == ("ce_recovered", "accuracy")
    side = row(one_side(table, "meaning"), arm="expander", reading="omp")
    assert side["mean"] == by_omp["meaning"] and side["above_floor"] == pytest.approx(0.1 / 0.24)


def test_synthetic_models_stand_below_with_their_own_measures(recorded):
    made = [probed(record("expander", 8, 16, 0, 0.7), 0.7), sampled("expander", 8, 0, 0.3)]
    table = three_axes_table(recorded(*made))
    found = row(table, model="synthetic, dense features", reading="topk")
    assert (found["fidelity"], found["meaning"]) == (0.6, 0.3) and found["layer"] == ""
    assert len(only(table, layer=1)) == 1


def test_records_without_meaning_say_what_would_make_it(recorded):
    with pytest.raises(NoRunsError, match="no run was probed.*no SAE of a synthetic model"):
        three_axes_table(recorded(record("expander", 8, 16, 0, 0.7)))
