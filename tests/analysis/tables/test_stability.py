from __future__ import annotations

import math
from dataclasses import replace

import pytest

from analysis.frames import dicts, only
from analysis.read.sources import NoRunsError
from analysis.tables.meaning import check_comparable
from analysis.tables.stability import stability_table
from analysis.tables.stats import half_interval
from tests.analysis.synthetic import compared, record, sampled


def row(table, **equal):
    (found,) = dicts(only(table, **equal))
    return found


def seeded(made, **seeds):
    """Give a record seeds of single parts."""
    name = "-".join(f"{key}{value}" for key, value in seeds.items())
    spec, axes = {**made["spec"], **seeds}, {**made["axes"], **seeds}
    return {**made, "spec": spec, "axes": axes, "run_id": f"{made['run_id']}-{name}"}


def test_pairs_stand_beside_chance_the_floor_and_the_ceiling(recorded):
    made = [
        compared(record("expander", 8, 16, 0, 0.7), {"b": 0.5, "c": 0.6}),
        compared(record("expander", 8, 16, 1, 0.7), {"d": 0.55}),
        compared(record("frozen_random", 8, 16, 0, 0.5), {"e": 0.2, "f": 0.3}, chance=0.01),
        compared(record("frozen_random", 4, 16, 0, 0.5), {"e": 0.9}),
        compared(record("dense_tied", 8, 16, 0, 0.9, degree=64), {"g": 0.8}),
    ]
    table = stability_table(recorded(*made).pairs)
    ours = row(table, arm="expander", what="functional_match")
    assert ours["mean"] == pytest.approx(0.55) and ours["pairs"] == 3 and ours["differs"] == "all"
    assert ours["half_interval"] == pytest.approx(half_interval([0.5, 0.6, 0.55]))
    assert ours["chance"] == pytest.approx(0.02) and ours["live"] == pytest.approx(0.9)
    assert ours["floor"] == pytest.approx(0.25) and ours["above_floor"] == pytest.approx(0.3 / 0.75)
    assert math.isnan(ours["ceiling"]) and ours["place"] == "after block 1"
    atoms = row(table, arm="expander", what="pw_mcc")
    assert [atoms[key] for key in ("mean", "ceiling", "chance")] == pytest.approx([0.455, 0.7, 0.4])
    dense = row(table, arm="dense_tied", what="functional_match")
    assert math.isnan(dense["d"]) and dense["floor"] == pytest.approx(0.9)  # the better of the two d
    assert math.isnan(row(table, arm="dense_tied", what="pw_mcc")["floor"]) and atoms["floor"] == pytest.approx(0.425)
    assert math.isnan(dense["half_interval"])


def test_which_seed_differs_and_how_codes_are_read_are_kept_apart(recorded):
    made = compared(record("expander", 8, 16, 0, 0.7), {"b": 0.5})
    made = compared(compared(made, {"c": 0.7}, differs="support"), {"d": 0.9}, differs="order")
    pursuit = compared(record("frozen_random+mp_refit", 8, 16, 0, 0.9), {"e": 0.4})
    table = stability_table(recorded(made, pursuit).pairs)
    means = {key: row(table, arm="expander", what="functional_match", differs=key)["mean"] for key in ("all", "order")}
    assert means == pytest.approx({"all": 0.5, "order": 0.9})
    assert math.isnan(row(table, arm="expander", what="above_90", differs="all")["floor"])  # another reading's
    assert row(table, arm="frozen_random+mp_refit", what="above_90")["reading"] == "mp_refit"


def test_a_measure_that_no_live_latent_has_is_left_out(recorded):
    made = compared(record("expander", 8, 16, 0, 0.7), {"b": 0.5}, functional_match=None, live_fraction=0.0)
    table = stability_table(recorded(made).pairs)
    assert "functional_match" not in set(table["what"]) and "pw_mcc" in set(table["what"])


def test_pairs_of_another_recipe_are_left_out_and_said(recorded, capsys):
    made = [compared(record("expander", 8, 16, seed, 0.7), {"b": 0.5}) for seed in (0, 1)]
    short = compared(record("expander", 8, 16, 2, 0.7), {"c": 0.1})
    short["spec"] = {**short["spec"], "train": {"steps": 3, "batch_size": 256}}
    assert row(stability_table(recorded(*made, short).pairs), what="functional_match")["mean"] == pytest.approx(0.5)
    assert "train.steps=3" in capsys.readouterr().err
    with pytest.raises(NoRunsError, match="python -m sweep.stability"):
        _ = replace(recorded(short), records=(record("expander", 4, 16, 3, 0.7),)).pairs


def test_pairs_of_lms_and_of_features_are_kept_apart(recorded):
    made = [compared(sampled("expander", 8, 0, 0.3, degree), {"b": match}) for degree, match in ((None, 0.2), (7, 0.6))]
    table = stability_table(recorded(*made, compared(record("expander", 8, 16, 0, 0.7), {"c": 0.4})).pairs)
    places = {key: row(table, place=key, what="functional_match")["mean"] for key in set(table["place"])}
    expected = {"dense features": 0.2, "features of 7 coordinates": 0.6, "after block 1": 0.4}
    assert places == pytest.approx(expected)


def test_runs_with_seeds_of_their_own_are_no_repetitions(recorded, capsys):
    """Other figures show the runs of one seed for all; the pairs of the others are there all the same."""
    made = [record("expander", 8, 16, seed, 0.7) for seed in (0, 1)]
    made += [compared(seeded(record("expander", 8, 16, 0, 0.9), seed_support=5), {"b": 0.5}, differs="support")]
    records = recorded(*made)
    assert records.everything["seed_support"].tolist().count(5) == 1 and len(records.everything) == 3
    assert records.runs["ce_recovered"].tolist() == [0.7, 0.7] and len(records.pairs) == 1
    assert "seeds.seed_support=5" in capsys.readouterr().err
    fixed = [seeded(record("expander", 4, 16, seed, 0.7), seed_support=5) for seed in (0, 1, 2)]
    only_fixed = replace(records, records=tuple(fixed))
    assert len(only_fixed.runs) == 3  # where all share a support, it is a setting like any other


def test_samples_with_seeds_of_their_own_are_left_out(recorded, capsys):
    made = [sampled("expander", 8, seed, 0.3) for seed in (0, 1)] + [sampled("dense_tied", 8, 0, 0.3)]
    records = recorded(*made, seeded(sampled("expander", 8, 0, 0.9), seed_order=2))
    check_comparable(records.samples)
    assert max(records.samples["coverage"]) < 0.5 and "seeds.seed_order=2" in capsys.readouterr().err
