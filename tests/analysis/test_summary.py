from __future__ import annotations

import pytest

from analysis.__main__ import main
from analysis.read.records import Records
from analysis.summary import summary
from sweep.store.records import write_record
from tests.analysis.synthetic import M, N, record


@pytest.fixture
def runs(tmp_path):
    """The folder of one seed: expanders that lose to dense dictionaries one-shot and win by pursuit, and the floor."""
    for d, one_shot, by_pursuit in ((8, 0.90, 0.96), (4, 0.85, 0.95), (2, 0.80, 0.94)):
        write_record(tmp_path, record("expander", d, 8, 0, one_shot))
        write_record(tmp_path, record("expander+mp_refit", d, 8, 0, by_pursuit))
        write_record(tmp_path, record("frozen_random", d, 8, 0, one_shot - 0.1, values=0))
        write_record(tmp_path, record("frozen_random+mp_refit", d, 8, 0, by_pursuit - 0.02, values=0))
    for d, ce in ((8, 0.93), (4, 0.91)):
        write_record(tmp_path, record("dense_matched", d, 8, 0, ce, n_latents=d * N // M, degree=M))
    write_record(tmp_path, record("dense_tied", M, 8, 0, 0.97))
    write_record(tmp_path, record("expander-8bit", 8, 8, 0, 0.99))
    return tmp_path


def test_it_says_who_preserves_the_most_at_which_size_and_cost(runs):
    title, size, cost, floor, advice = summary(Records.read(runs))
    assert "tiny after block 1" in title and "k=8" in title and "one seed" in title
    assert "of all, dense, tied preserves the most, 0.970" in size and "8 bits" not in size
    smallest = M // 2
    assert f"1/{smallest}: expander, trained by mp_refit (d=2), 0.940" in size
    assert "one-shot, the cheapest way, sparse beats dense of equal size 0 of 2 times (-0.060 to -0.030)" in cost
    assert "in any way measured, sparse beats dense of equal size 2 of 2 times (+0.030 to +0.040)" in cost
    assert "by mp_refit 0.920 to 0.940, training adds 0.020" in floor and "one-shot 0.700 to 0.800" in floor
    assert "sae=dynamic,frozen_random sae.basis=reflections64" in advice


def test_an_sae_that_is_the_best_at_several_sizes_is_named_once(tmp_path):
    for d, ce in ((8, 0.8), (4, 0.85), (2, 0.9), (1, 0.7)):
        write_record(tmp_path, record("expander", d, 8, 0, ce))
    _, size, *_ = summary(Records.read(tmp_path))
    assert f"1/{M // 8} and 1/{M // 2}: expander (d=2), 0.900; 1/{M}: expander (d=1), 0.700." in size


def test_it_says_what_the_records_lack(tmp_path, capsys):
    write_record(tmp_path, record("expander", 4, 8, 0, 0.85))
    *_, cost, floor, advice = summary(Records.read(tmp_path))
    assert "no sparse dictionary has the size of a dense one" in cost
    assert "no random dictionary was measured" in floor and "sae.encoder=mp_refit" in advice
    assert main(["summary", "--runs", str(tmp_path)]) == 0 and capsys.readouterr().out.count("\n") == 5
    assert main(["summary", "--runs", str(tmp_path / "none")]) == 1 and "no such folder" in capsys.readouterr().err


def test_sae_of_other_files_are_neither_sparse_nor_dense_and_other_lms_are_named(runs, capsys):
    said = summary(Records.read(runs))
    write_record(runs, record("imported", 8, 8, 0, 0.99, degree=M))
    assert summary(Records.read(runs)) == said
    other = record("expander", 8, 8, 1, 0.5, layer=3)
    write_record(runs, other | {"labels": other["labels"] | {"model": "mine"}})
    title, *rest = summary(Records.read(runs))
    assert rest == said[1:] and title.endswith("(there are runs of mine after block 3 too: --model NAME --layer L)")
    assert main(["summary", "--runs", str(runs), "--model", "mine"]) == 0
    assert "mine after block 3" in capsys.readouterr().out
    assert main(["summary", "--runs", str(runs), "--model", "yours"]) == 1
    assert "no run of LM yours; there are mine, tiny" in capsys.readouterr().err


def test_more_seeds_give_intervals(tmp_path):
    for seed, ce in enumerate((0.84, 0.85, 0.86)):
        write_record(tmp_path, record("expander+omp", 4, 8, seed, ce))
        write_record(tmp_path, record("frozen_random+omp", 4, 8, seed, ce, values=0))
    title, size, _, floor, _ = summary(Records.read(tmp_path))
    assert "up to 3 seeds" in title and "0.850 ± 0.025" in size and "1 of 1 are not above it" in floor
