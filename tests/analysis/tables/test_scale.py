"""What very many atoms take, measured, beside what as many dense ones would, computed."""

from __future__ import annotations

import pytest

from analysis.__main__ import main
from analysis.frames import only
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.scale import scale_table
from sweep.store.records import write_record
from tests.analysis.synthetic import M, N, record


def of_size(d, n, seed, seconds):
    training = {"steps": 100, "tokens": 2_000_000, "seconds": seconds}
    made = record("expander", d, 8, seed, 0.8, n_latents=n, training=training)
    made["axes"] |= {"n": n}
    return made


@pytest.fixture
def runs(tmp_path):
    """The folder of two seeds at three numbers of atoms for d=3, and of two numbers for d=7."""
    for seed in (0, 1):
        for place, n in enumerate((N, 4 * N, 16 * N)):
            write_record(tmp_path, of_size(3, n, seed, seconds=10.0 * (place + 1) + 2 * seed))
        for n in (N, 4 * N):
            write_record(tmp_path, of_size(7, n, seed, seconds=5.0))
    return tmp_path


def test_a_curve_has_three_measures_and_the_computed_dense_sizes(runs):
    table = scale_table(Records.read(runs).runs)
    seconds = only(table, what="seconds_a_million")
    assert seconds["n_latents"].tolist() == [N, 4 * N, 16 * N] and set(seconds["d"]) == {3}
    assert seconds["mean"].tolist() == pytest.approx([5.5, 10.5, 15.5]) and set(seconds["seeds"]) == {2}
    memory = only(table, what="trained_bytes")
    ours = [16 * (3 * n + n + M) + 8 * 3 * n for n in (N, 4 * N, 16 * N)]  # values and biases; rows of the support
    assert only(memory, arm="expander")["mean"].tolist() == ours
    learned = [M * n + n + M for n in (N, 4 * N, 16 * N)]
    assert only(memory, arm="dense_tied")["mean"].tolist() == [16 * count for count in learned]
    disk = only(table, what="artifact_bytes")
    assert only(disk, arm="dense_tied")["mean"].tolist() == [4 * count for count in learned]
    assert set(only(disk, arm="dense_tied")["seeds"]) == {0}


def test_two_sizes_make_no_curve(tmp_path):
    for n in (N, 4 * N):
        write_record(tmp_path, of_size(3, n, 0, seconds=4.0))
    with pytest.raises(NoRunsError, match="scale/million"):
        scale_table(Records.read(tmp_path).runs)


def test_the_figure_says_which_line_was_computed(runs, tmp_path):
    assert main(["scale", "--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    drawn = (tmp_path / "out" / "scale.svg").read_text()
    assert "computed, not trained" in drawn and "values, gradient, moments, support" in drawn
