"""Sparse dictionaries of equal decoder values, from few full atoms to many thin ones."""

from __future__ import annotations

import pytest

from analysis.__main__ import main
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.iso_storage import iso_storage_table
from sweep.store.records import write_record
from tests.analysis.synthetic import N, record


def of_size(arm, d, n, seed, ce, values=None):
    """Return the record of an SAE with n atoms of d values."""
    made = record(arm, d, 8, seed, ce, n_latents=n, values=values)
    made["axes"] |= {"n": n}
    return made


@pytest.fixture
def runs(tmp_path):
    """The folder of three seeds at 2 * N values, shared by N / 2, N and 2 N atoms, and of one more size."""
    for seed in (0, 1, 2):
        for d, n, ce in ((4, N // 2, 0.80), (2, N, 0.85), (1, 2 * N, 0.75)):
            write_record(tmp_path, of_size("expander", d, n, seed, ce + seed / 100))
            write_record(tmp_path, of_size("frozen_random", d, n, seed, ce - 0.1, values=0))
        write_record(tmp_path, of_size("expander", 8, N, seed, 0.9))
    return tmp_path


def test_the_dictionaries_of_a_curve_have_as_many_values_and_a_floor_each(runs):
    table = iso_storage_table(Records.read(runs).runs)
    assert table["n"].tolist() == [N // 2, N, 2 * N] and set(table["values"]) == {2 * N} and set(table["seeds"]) == {3}
    assert table["mean"].tolist() == pytest.approx([0.81, 0.86, 0.76])
    assert table["floor"].tolist() == pytest.approx([0.70, 0.75, 0.65]) and (table["floor_d"] == table["d"]).all()


def test_two_sizes_make_no_curve(tmp_path):
    for d, n in ((4, N // 2), (2, N)):
        write_record(tmp_path, of_size("expander", d, n, 0, 0.8))
    with pytest.raises(NoRunsError, match="controls/iso_storage"):
        iso_storage_table(Records.read(tmp_path).runs)


def test_the_figure_has_the_number_of_atoms_as_its_axis(runs, tmp_path):
    assert main(["iso_storage", "--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".png", ".svg", ".csv"}
    assert f"n = {2 * N:,} / d, k = 8" in (tmp_path / "out" / "iso_storage.svg").read_text()
