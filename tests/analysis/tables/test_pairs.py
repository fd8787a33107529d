from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.commands import masks
from analysis.output import Options
from analysis.read.sources import NoRunsError
from analysis.tables.controls import layers_table, masks_table, matched_table, seeds_table, supports_table
from analysis.tables.curves import data_table, learning_table, main_degrees
from analysis.tables.pairs import all_differences, difference_table, paired
from analysis.tables.wins import comparable_arms, wins_table
from tests.analysis.synthetic import M, record


def interval(values, t):
    """Return the half width of the t interval of the mean; `t` is the quantile."""
    return t * np.std(values, ddof=1) / math.sqrt(len(values))


@pytest.fixture
def four(recorded):
    """Records of expander and clustered at two d, and of dense; clustered has one seed more, at d=2 one less."""
    ce = {
        ("expander", 2): [0.70, 0.75, 0.81],
        ("expander", 8): [0.80, 0.84, 0.90],
        ("clustered", 2): [0.69, 0.76],
        ("clustered", 8): [0.78, 0.83, 0.87, 0.1],
        ("dense_tied", 8): [0.95, 0.96, 0.97],
    }
    made = []
    for (arm, d), values in ce.items():
        degree = M if arm == "dense_tied" else d
        made += [record(arm, d, 8, seed, value, degree=degree) for seed, value in enumerate(values)]
    return recorded(*made)


def test_differences_pair_seeds_of_one_cell(four):
    table = difference_table(four.runs, "clustered", "expander", "ce_recovered").set_index("d")
    assert table.loc[2, "mean"] == pytest.approx(np.mean([-0.01, 0.01])) and table.loc[2, "seeds"] == 2
    assert table.loc[2, "half_interval"] == pytest.approx(interval([-0.01, 0.01], 12.706), rel=1e-3)
    assert table.loc[8, "mean"] == pytest.approx(np.mean([-0.02, -0.01, -0.03])) and table.loc[8, "seeds"] == 3
    assert table.loc[8, "half_interval"] == pytest.approx(interval([-0.02, -0.01, -0.03], 4.303), rel=1e-3)


@pytest.mark.parametrize("arm, other, sign", [("expander", "dense_tied", 1), ("dense_tied", "expander", -1)])
def test_a_dense_arm_is_compared_at_each_d(four, arm, other, sign):
    table = difference_table(four.runs, arm, other, "ce_recovered")
    means = [np.mean([-0.25, -0.21, -0.16]), np.mean([-0.15, -0.12, -0.07])]
    assert table["mean"].tolist() == pytest.approx([sign * mean for mean in means])
    assert table["d"].tolist() == [2, 8]


def test_other_layers_ks_and_seeds_are_no_partners(recorded):
    expander = record("expander", 2, 8, 0, 0.8)
    another_seed, another_k = record("clustered", 2, 8, 1, 0.9), record("clustered", 2, 16, 0, 0.9)
    another_layer = record("clustered", 2, 8, 0, 0.9, layer=2)
    found = recorded(expander, another_seed, another_k, another_layer)
    assert all_differences(found.runs, ["clustered"], ["expander"], "ce_recovered").empty


def test_wins_are_counted_by_cell_and_clear_wins_beside_them(four):
    row = wins_table(four.readings).query("arm == 'expander' and other == 'clustered'").iloc[0]
    assert (row["cells"], row["cells_won"], row["won_clearly"]) == (2, 1, 0)  # d=2 is a tie of means; d=8: .02 +- .025
    row = wins_table(four.readings).query("arm == 'expander' and other == 'dense_tied'").iloc[0]
    assert (row["cells"], row["cells_won"], row["cells_lost"], row["lost_clearly"]) == (2, 0, 2, 2)
    by_seed = [(-0.25 - 0.15) / 2, (-0.21 - 0.12) / 2, (-0.16 - 0.07) / 2]
    assert row["difference"] == pytest.approx(np.mean(by_seed)) and row["seeds"] == 3 and row["cells_averaged"] == 2
    assert row["half_interval"] == pytest.approx(interval(by_seed, 4.303), rel=1e-3)


def test_wins_agree_with_differences_cell_by_cell(records):
    wins = wins_table(records.readings)
    read_by_omp = records.readings.query("inference == 'omp'")
    for arm, other in (("expander", "dense_matched"), ("expander", "dense_tied"), ("dense_tied", "dense_warmtied")):
        row = wins.query("inference == 'omp' and arm == @arm and other == @other").iloc[0]
        cells = difference_table(read_by_omp, arm, other, "ce_recovered")
        assert row["cells"] == len(cells) and row["cells_won"] == (cells["mean"] > 0).sum()
        assert row["won_clearly"] == (cells["mean"] > cells["half_interval"]).sum()
    assert "pca" not in {*wins["arm"], *wins["other"]}
    shown = comparable_arms(wins, records.readings)
    assert not shown["arm"].str.contains("bit").any() and {"", "mp_refit"} == set(shown["pursuit"])


def test_arms_in_other_bases_are_compared_where_asked_for(recorded):
    labels = ["expander", "clustered", "expander@reflections4", "expander-n4"]
    runs = recorded(*(record(arm, 8, 8, 0, 0.8 + i / 100) for i, arm in enumerate(labels))).readings
    wins = wins_table(runs)
    assert len(wins) == len(comparable_arms(wins, runs, usual=False)) == 6
    (row,) = comparable_arms(wins, runs).to_dict("records")
    assert (row["arm"], row["other"]) == ("expander", "clustered")


def test_without_a_shared_seed_there_is_no_difference():
    assert paired({0: 1.0}, {1: 2.0}).seeds == 0 and math.isnan(paired({0: 1.0}, {1: 2.0}).mean)
    assert paired({0: 1.0, 1: 3.0}, {1: 2.0, 2: 9.0}) == pytest.approx((1.0, math.nan, 1), nan_ok=True)


def test_supports_show_values_and_differences(records):
    table = supports_table(records.runs)
    apart = table[table["what"] == "difference"]
    assert "expander" not in set(apart["arm"]) and len(set(apart["arm"])) == 6
    assert apart.query("arm == 'pruned_retuned'")["mean"].mean() == pytest.approx(0.03, abs=0.002)
    cost = table.query("what == 'ce_recovered'").groupby("arm")["train_tokens"].mean()
    assert cost["pruned_retuned"] == 2 * cost["expander"] == 2 * 1_280_000  # its source's training counts


def test_the_table_of_masks_needs_two_arms(records, recorded):
    assert set(masks_table(records.runs)["what"]) == {"ce_recovered", "dead_fraction"}
    with pytest.raises(NoRunsError, match="fewer than two"):
        masks_table(recorded(record("expander", 2, 8, 0, 0.8)).runs)


def test_the_matched_table_is_expander_minus_dense_for_each_way_of_reading(records):
    table = matched_table(records.readings)
    by_encoder = table.query("what == 'difference by the trained encoder' and arm == 'dense_matched'")
    assert by_encoder["mean"].mean() == pytest.approx(-0.02, abs=0.002)
    by_omp = table.query("what == 'difference by OMP' and arm == 'dense_matched'")
    assert by_omp["mean"].mean() == pytest.approx(-0.02 + 0.03 - 0.008, abs=0.002)
    assert "difference, both trained by mp_refit" in set(table["what"])


def test_the_table_of_layers_needs_two_layers(records, recorded):
    assert set(layers_table(records.runs)["layer"]) == {1, 2}
    with pytest.raises(NoRunsError, match="two layers"):
        layers_table(recorded(record("expander", 2, 8, 0, 0.8)).runs)


def test_the_table_of_seeds_needs_five_seeds(records, recorded):
    table = seeds_table(records.runs)
    five = table[table["half_interval"].notna()]
    assert sorted(five["arm"]) == ["dense_tied", "expander"] and (five["seeds"] == 5).all()
    with pytest.raises(NoRunsError, match="5 seeds"):
        seeds_table(recorded(*(record("expander", 2, 8, seed, 0.8) for seed in range(4))).runs)


def test_data_efficiency_compares_runs_that_differ_in_their_pool_alone(records, recorded):
    table = data_table(records.everything)
    assert sorted(set(table["pool_tokens"])) == [5_000, 20_000, 50_000, 200_000]
    assert set(table["arm"]) == {"expander"} and set(table["seeds"]) == {3, 5}
    short = record("expander", 2, 8, 0, 0.8, pool=5000)
    short["spec"]["train"]["steps"] = 10
    with pytest.raises(NoRunsError, match="differ only"):
        data_table(recorded(record("expander", 2, 8, 0, 0.8), short).everything)


def test_learning_curves_are_means_over_seeds_and_shown_at_one_degree(records, recorded):
    table = learning_table(records.runs)
    row = table.query(
        "layer == 1 and k == 8 and arm == 'expander' and d == 2 and tokens == 1_280_000 and what == 'fvu'"
    )
    runs = records.runs.query("layer == 1 and k == 8 and arm == 'expander' and d == 2")
    ends = [curves["fvu"][-1] for curves in runs["curves"]]
    assert row["mean"].iloc[0] == pytest.approx(np.mean(ends)) and row["seeds"].iloc[0] == 3
    assert row["half_interval"].iloc[0] == pytest.approx(interval(ends, 4.303), rel=1e-3)
    assert main_degrees(table).groupby(["layer", "k"])["d"].nunique().tolist() == [1] * 4
    with pytest.raises(NoRunsError):
        learning_table(recorded(record("expander", 2, 8, 0, 0.8, curves={})).runs)


def test_panels_that_share_an_axis_of_shares_all_fit_on_it(recorded):
    made = []
    for k, dead in ((8, 0.001), (16, 0.2)):
        for arm in ("expander", "clustered"):
            for d in (2, 8):
                one = record(arm, d, k, 0, 0.8)
                one["metrics"]["dead_fraction"] = dead
                made.append(one)
    (output,) = masks(recorded(*made), Options())
    dead = [axis for axis in output.figure.axes if axis.get_visible()][-2:]
    assert all(axis.get_ylim()[0] <= 0 and axis.get_ylim()[1] > 0.2 for axis in dead)
