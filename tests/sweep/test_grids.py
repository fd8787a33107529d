"""The cells that an experiment's sets of lists make, once the command line has chosen among them."""

from __future__ import annotations

import pytest

from sweep.jobs.grid import choices_of, selected
from sweep.store.records import COMPLETE, iterate_records
from tests.sweep.test_inference import call
from tests.sweep.world import World

GRIDS = [
    {"model": "a", "layer": "3", "d": "7,50"},
    {"model": "b", "layer": "4,8", "d": "10,50"},
    {"model": "c", "k": "16"},
]


@pytest.mark.parametrize(
    "given, left",
    [
        ({}, [(0, {}), (1, {}), (2, {})]),
        ({"model": {"b"}}, [(1, {"model": "b"})]),
        ({"model": {"local"}}, [(0, {}), (1, {}), (2, {})]),
        ({"seed": {"1"}}, [(0, {}), (1, {}), (2, {})]),
        ({"d": {"50"}}, [(0, {"d": "50"}), (1, {"d": "50"}), (2, {})]),
        ({"d": {"7"}}, [(0, {"d": "7"}), (2, {})]),
        ({"d": {"7", "10"}}, [(0, {"d": "7"}), (1, {"d": "10"}), (2, {})]),
        ({"d": {"7", "11"}}, [(0, {}), (1, {}), (2, {})]),
        ({"layer": {"8"}, "model": {"a"}}, [(0, {"model": "a"})]),
        ({"k": {"16"}}, [(0, {}), (1, {}), (2, {"k": "16"})]),
        ({"model": {"a", "b"}, "layer": {"3"}}, [(0, {"model": "a", "layer": "3"})]),
    ],
)
def test_a_key_on_the_command_line_chooses_among_listed_values_or_replaces_them(given, left):
    assert selected(GRIDS, given) == [({**GRIDS[i], **chosen}, set(chosen)) for i, chosen in left]


def test_an_argument_with_commas_is_several_choices():
    assert choices_of("d=3,7") == ["d=3", "d=7"] and choices_of("d=3") == ["d=3"]
    assert choices_of("eval.inference=[omp,refit]") == ["eval.inference=[omp,refit]"]


def test_a_glob_over_a_group_and_two_arguments_of_one_key(tmp_path):
    place = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "tracker.mode=disabled", "threads=1"]
    small = ["train.steps=20", "eval.windows=2", "corpus.train_tokens=2000", "n=128", "k=4"]
    call("sweep", "-m", "sae=glob([clust*,band*])", "~sae.encoder", "+sae.encoder=topk", *place, *small)
    records = [record for _, record in iterate_records(tmp_path / "runs")]
    assert {record["labels"]["arm"] for record in records} == {"clustered", "banded"}


def test_lms_that_are_not_to_be_had_are_left_out_and_the_others_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    place = [f"runs_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}", "tracker.mode=disabled", "threads=1"]
    small = ["sae=expander", "train.steps=20", "eval.windows=2", "corpus.train_tokens=2000"]
    done = call("sweep", "experiment=paper/table2_deployment", *place, *small)
    assert "left out: 3 cells, the first" in done.stdout and "pythia-70m-deduped" in done.stdout
    records = [record for _, record in iterate_records(tmp_path / "runs")]
    assert {record["labels"]["model"] for record in records} == {"embedded"} and len(records) == 3
    assert {record["status"] for record in records} == {COMPLETE}
    none = call("sweep", "experiment=paper/table2_deployment", "model=pythia-70m", *place, *small, code=1)
    assert none.stderr.count("\n") == 1 and "is not on this disk" in none.stderr


def test_an_axis_that_makes_no_new_run_is_carried_out_too(tmp_path, model_folders, text_file):
    world = World(tmp_path, model_folders["gpt_neox"], text_file)
    cells = ["-m", "d=2,3", "train.steps=20", "eval.inference=[encoder],[topk]", "eval.contexts=0,2"]
    code, out, err = world.sweep(*cells)
    assert code == 0, err
    records = world.records()
    assert [sorted(record["inference"]) for record in records] == [["encoder", "topk"]] * 2
    assert [record["latents"]["contexts"] for record in records] == [2, 2]
    assert "note: 6 cell(s) ask for more of another cell's run" in out and "by topk" in out


def planned(world, *words, code=0):
    """Return the (arm, d, n, seed) of every run that a sweep would make, or the line that says why it makes none."""
    found, out, err = world.sweep(*words, "plan=true", "train.steps=20")
    assert found == code, err
    if code:
        assert err.count("\n") == 1
        return err
    rows = [line.split() for line in out.splitlines() if line.rstrip().endswith("to do") and "runs:" not in line]
    return [(row[1], int(row[2]), int(row[4]), int(row[6])) for row in rows]


def test_axes_move_together_and_several_grids_make_one_sweep(tmp_path, model_folders, text_file):
    world = World(tmp_path, model_folders["gpt_neox"], text_file)
    world.common = [word for word in world.common if not word.startswith(("d=", "n=64"))]
    assert planned(world, "zip(d=2,3 n=64,48)", "seed=0,1") == [
        ("expander", d, n, seed) for d, n in ((2, 64), (3, 48)) for seed in (0, 1)
    ]
    several = planned(
        world, "grid(sae=expander zip(d=2,3 n=64,48))", "grid(sae=frozen_random,banded d=4 n=64)", "seed=1"
    )
    assert several == [
        ("expander", 2, 64, 1),
        ("expander", 3, 48, 1),
        ("frozen_random", 4, 64, 1),
        ("banded", 4, 64, 1),
    ]
    assert "d is given twice" in planned(world, "zip(d=2,3 n=64,48)", "d=4,5", code=1)
    assert "all axes must have as many values" in planned(world, "zip(d=2,3 n=64)", code=1)
    searched = planned(world, "hydra/sweeper=optuna_frontier", "zip(d=2,3 n=64,48)", code=1)
    assert "for grids, not for searches" in searched


def test_joined_experiments_are_one_sweep_of_the_runs_of_both(tmp_path, model_folders, text_file):
    world = World(tmp_path, model_folders["gpt_neox"], text_file)
    world.common = [word for word in world.common if not word.startswith(("d=", "k=", "hydra/launcher"))]
    small = ["seed=0", "d=2", "k=4"]
    alone = [planned(world, f"experiment={name}", *small) for name in ("frontier", "seeds")]
    joined = planned(world, "experiment=frontier+seeds", *small)
    assert joined == list(dict.fromkeys([*alone[0], *alone[1]])) and alone[0] != alone[1]
    refused = planned(world, "experiment=frontier+search", *small, code=1)
    assert "for grids, not for searches" in refused
