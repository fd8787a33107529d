from __future__ import annotations

import math
import random

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analysis.__main__ import main
from analysis.draw.labels import spread
from analysis.draw.pareto import pareto_figure
from analysis.draw.stairs import clipped, stairs
from analysis.read.sources import NoRunsError
from analysis.tables.pareto import non_dominated, pareto_table
from sweep.store.records import write_record
from tests.analysis.synthetic import M, record


def run(name, ce, stored, *, n=512, k=8, d=4, arm="expander", lr=None, **more):
    """Return a record with the n, k and d that a search drew."""
    made = record(arm, d, k, 0, ce, n_latents=more.pop("n_latents", n), stored=stored, run_id=name, **more)
    made["axes"]["n"] = n
    if lr is not None:
        made["spec"]["train"] = {**made["spec"]["train"], "lr": lr}
    return made


def in_set(table):
    """Return the run ids of the Pareto set."""
    return set(table.loc[table["pareto"], "run_id"])


def search(count, seed=0):
    """Return the records of a search: no two share n, k or learning rate."""
    rng = random.Random(seed)
    ns, ks = rng.sample(range(200, 4000), count), rng.sample(range(4, 4 + count), count)
    made = []
    for i, d in enumerate(rng.choices(range(2, 33), k=count)):
        ce = 0.5 + 0.05 * math.log(d * ns[i]) / 2 + rng.gauss(0, 0.02)
        stored = 4 * d * ns[i] + 1200
        made.append(run(f"{i:04d}", ce, stored, n=ns[i], k=ks[i], d=d, lr=10 ** rng.uniform(-4, -2)))
    return made


def test_the_set_is_what_comparing_every_pair_finds():
    rng = np.random.default_rng(0)
    for size in (1, 2, 60):
        x, y = rng.integers(0, 6, size), rng.integers(0, 6, size)  # many ties and duplicates
        beaten = [
            any(x[j] >= x[i] and y[j] >= y[i] and (x[j], y[j]) != (x[i], y[i]) for j in range(size))
            for i in range(size)
        ]
        assert non_dominated(x, y).tolist() == [not is_beaten for is_beaten in beaten]


def test_ties_are_beaten_and_duplicates_stand_together(recorded):
    made = [
        run("small", 0.7, 1000),
        run("as large, worse", 0.6, 1000),
        run("twin a", 0.8, 2000),
        run("twin b", 0.8, 2000),
        run("as good, larger", 0.8, 2500),
        run("best", 0.9, 9000),
    ]
    assert in_set(pareto_table(recorded(*made).everything)) == {"small", "twin a", "twin b", "best"}


def test_less_is_better_on_some_axes_and_more_on_others(recorded):
    made = [run("low", 0.7, 1000, d=2), run("high", 0.9, 4000, d=8), run("beaten", 0.6, 4000, d=8)]
    everything = recorded(*made).everything
    for x in ("stored_bytes", "decoder_values", "compression"):
        for y in ("ce_recovered", "delta_ce", "fvu", "ce_recovered_mean"):
            assert in_set(pareto_table(everything, x, y)) == {"low", "high"}, (x, y)


def test_runs_without_x_or_y_stay_in_the_table_and_out_of_the_set(recorded):
    old = run("old", 0.99, 1)
    del old["storage"]["artifact_bytes"]
    everything = recorded(run("nan", 0.99, 1), old, run("known", 0.5, 1000)).everything
    everything.loc[everything["run_id"] == "nan", "ce_recovered"] = math.nan
    table = pareto_table(everything)
    assert set(table["run_id"]) == {"nan", "old", "known"} and in_set(table) == {"known"}
    pareto_figure(table, "stored_bytes", "ce_recovered")
    with pytest.raises(NoRunsError, match="no run has both stored_bytes and ce_recovered"):
        pareto_table(everything.query("run_id != 'known'"))


def test_pca_is_never_in_the_set_and_beats_nobody(recorded):
    pca = run("pca", 0.99, 100, arm="pca", degree=M, n_latents=8)
    table = pareto_table(recorded(pca, run("sparse", 0.6, 1000)).everything)
    assert in_set(table) == {"sparse"} and len(table) == 2


def test_each_layer_has_a_set_of_its_own(recorded):
    made = [run("one", 0.9, 1000), run("two", 0.5, 2000, layer=2)]
    assert in_set(pareto_table(recorded(*made).everything)) == {"one", "two"}


def test_compression_counts_from_one_n(recorded):
    """Two runs of the same m/d, one at half the n, are no tie that the larger n wins: its decoder is twice as large."""
    table = pareto_table(recorded(run("half", 0.7, 1, n=256), run("whole", 0.8, 1, n=512)).everything, "compression")
    assert dict(zip(table["run_id"], table["x"], strict=True)) == {"whole": M / 4, "half": 2 * M / 4}
    assert in_set(table) == {"half", "whole"}
    alone = pareto_table(recorded(run("half", 0.7, 1, n=256)).everything.query("run_id == 'half'"), "compression")
    assert alone["x"].tolist() == [M / 4]


def test_runs_of_any_recipe_are_compared_and_those_of_another_evaluation_are_not(recorded, capsys):
    other = run("fewer windows", 0.99, 1)
    other["spec"]["eval"] = {"windows": 5}
    made = [run("slow", 0.7, 1000, lr=1e-4), run("fast", 0.8, 1000, lr=1e-2), run("pool", 0.6, 900, pool=5000), other]
    assert in_set(pareto_table(recorded(*made).everything)) == {"fast", "pool"}
    assert capsys.readouterr().err == (
        "note: 1 run(s) of tiny, layer 1 with other settings left out (eval.windows=5)\n"
    )


def test_the_staircase_is_the_best_at_each_storage(recorded):
    made = [run("a", 0.5, 10), run("b", 0.7, 20), run("c", 0.8, 40), run("beaten", 0.4, 30)]
    table = pareto_table(recorded(*made).everything)
    xs, ys = stairs(table, "stored_bytes", 100)
    assert xs == [10, 20, 20, 40, 40, 100] and ys == [0.5, 0.5, 0.7, 0.7, 0.8, 0.8]
    assert clipped(xs, ys, 15, 30) == ([15, 20, 20, 30], [0.5, 0.5, 0.7, 0.7])
    assert clipped(xs, ys, 22, 30) == ([22, 30], [0.7, 0.7]) and clipped(xs, ys, 1, 5) == ([], [])
    up, level = stairs(table.assign(x=100 / table["x"]), "compression", 1)
    assert up == [10, 5, 5, 2.5, 2.5, 1] and level == ys
    assert clipped(up, level, 2, 4) == ([2, 2.5, 2.5, 4], [0.8, 0.8, 0.7, 0.7])


def test_a_single_run_is_its_own_set(recorded):
    table = pareto_table(recorded(run("only", 0.5, 10)).everything)
    assert in_set(table) == {"only"} and stairs(table, "stored_bytes", 10) == ([10, 10], [0.5, 0.5])
    pareto_figure(table, "stored_bytes", "ce_recovered")


def test_labels_cover_neither_each_other_nor_points(recorded):
    table = pareto_table(recorded(*search(120)).everything)
    figure = pareto_figure(table, "stored_bytes", "ce_recovered")
    axis, renderer = figure.axes[0], FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axis.texts if "d=" in text.get_text()]
    assert 3 <= len(boxes) <= table["pareto"].sum()
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    points = axis.transData.transform(table[["x", "y"]].to_numpy())
    assert not any(box.contains(*point) for box in boxes for point in points)
    frame = axis.get_window_extent()
    assert all(frame.contains(*corner) for box in boxes for corner in box.corners())


def test_the_ends_of_the_set_are_labelled_first():
    assert spread(5) == [0, 4, 2, 1, 3] and spread(1) == [0] and spread(0) == [] and sorted(spread(12)) == [*range(12)]


def test_runs_that_failed_to_train_do_not_set_the_scale(recorded):
    made = [*search(40), run("diverged", -5.0, 50_000), run("the smallest, diverged", -6.0, 100)]
    axis = pareto_figure(pareto_table(recorded(*made).everything), "stored_bytes", "ce_recovered").axes[0]
    assert axis.get_ylim()[0] > 0
    assert any("2 worse run(s) beyond this edge, 1 of the set" in text.get_text() for text in axis.texts)


def test_a_run_without_learned_values_has_a_place_on_the_axis(recorded):
    made = [run("none", 0.5, 10, values=0, arm="frozen_random"), run("some", 0.7, 20)]
    axis = pareto_figure(pareto_table(recorded(*made).everything, "decoder_values"), "decoder_values", "fvu").axes[0]
    assert axis.get_xlim()[0] < 0 and 0 in axis.get_xticks()


@pytest.fixture
def searched(tmp_path):
    """A folder with the records of a search under `runs`."""
    for one in search(40):
        write_record(tmp_path / "runs", one)
    return tmp_path


def test_the_command_writes_every_run_and_the_settings_that_differ(searched):
    assert main(["pareto", "--runs", str(searched / "runs"), "--out", str(searched)]) == 0
    table = pd.read_csv(searched / "pareto.csv", dtype={"run_id": str})
    floor = ["floor", "floor_d", "above_floor"]
    axes = ["model", "run_id", "arm", "d", "k", "n", "n_latents", "layer", "seed"]
    assert list(table.columns) == [*axes, "lr", "stored_bytes", "ce_recovered", "delta_ce", *floor, "pareto"]
    assert len(table) == 40
    assert 0 < table["pareto"].sum() < 40 and table["lr"].nunique() == 40
    other_axes = ["--x", "compression", "--y", "delta_ce"]
    assert main(["pareto", "--runs", str(searched / "runs"), "--out", str(searched), *other_axes]) == 0
    assert list(pd.read_csv(searched / "pareto-compression-delta_ce.csv").columns).count("delta_ce") == 1


def test_a_study_limits_a_figure_to_its_runs(searched, capsys):
    trials = searched / "trials.csv"
    trials.write_text("trial,run_id\n0,0003\n1,0007\n2,\n3,gone\n")
    place = ["--runs", str(searched / "runs"), "--out", str(searched), "--study", str(trials)]
    assert main(["pareto", *place]) == 0
    assert set(pd.read_csv(searched / "pareto.csv", dtype={"run_id": str})["run_id"]) == {"0003", "0007"}
    assert f"note: 1 of 3 run(s) of --study {trials} not complete" in capsys.readouterr().err
    mistakes = {"trial\n1\n": "no column run_id", "run_id\nx\n": "none of its 1 run(s)", None: "cannot be"}
    for text, message in mistakes.items():
        trials.write_text(text) if text else trials.unlink()
        assert main(["pareto", *place]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: --study {trials}: ") and message in error and error.count("\n") == 1


def test_the_frontier_of_a_search_is_not_a_figure_of_hundreds_of_panels(searched, capsys):
    for k in (8, 16):  # a small grid beside the search
        for d in (4, 8):
            write_record(searched / "runs", run(f"grid {k} {d}", 0.7 + d / 100, 1000 * d, k=k, d=d, n=100))
    place = ["--runs", str(searched / "runs"), "--out", str(searched)]
    assert main(["frontier", *place, "--pareto"]) == 0
    assert "note: frontier: 40 of 42 panels are in the CSV only, those of a single" in capsys.readouterr().err
    assert len(pd.read_csv(searched / "frontier-pareto.csv")) == 44
    best = pd.read_csv(searched / "frontier-pareto-set.csv")
    assert best["pareto"].all() and {"run_id", "lr", "compression"} <= set(best.columns)
    assert (searched / "frontier-pareto.png").is_file()


def test_a_search_over_learning_rates_does_not_print_a_note_for_each_run(recorded, capsys):
    found = recorded(*(run(f"{i}", 0.5, 10, lr=1e-4 * (i + 1)) for i in range(30)))
    assert len(found.runs) == 1
    said = capsys.readouterr().err.splitlines()
    (note,) = said
    assert note.startswith("note: 29 run(s) of tiny, layer 1, n 512 with other settings left out (train.lr=0.0002 or ")
    assert " or 25 more); python -m analysis pareto" in note
