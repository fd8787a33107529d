"""A multirun through each launcher of one machine: every run once, with the threads meant for it, failures recorded."""

from __future__ import annotations

import pytest

from tests.sweep.world import World

FAILING = ["train.lr=1e-3,1e30", "train.grad_clip=1e30", "train.lr_final=0", "train.steps=20"]


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path, model_folders["gpt_neox"], text_file)


JOBLIB = ["hydra.launcher.n_jobs=2", "threads=2"]
SUBMITIT = ["launch.workers=2", "hydra.launcher.cpus_per_task=2", "threads=null"]
RAY = ["hydra.launcher.ray.init.num_cpus=4", "hydra.launcher.ray.remote.num_cpus=2", "threads=null"]
LAUNCHERS = [("joblib", JOBLIB), ("submitit_local", SUBMITIT), pytest.param("ray", RAY, marks=pytest.mark.ray)]


@pytest.mark.parametrize("launcher, settings", LAUNCHERS)
def test_each_run_is_trained_once_with_its_threads_and_failures_are_recorded(world, launcher, settings):
    code, out, err = world.sweep("-m", "d=2,3", *FAILING, f"hydra/launcher={launcher}", *settings)
    assert code == 1 and "Traceback" not in err and "arning" not in err, err
    records = world.records()
    assert sorted(record["status"] for record in records) == ["complete"] * 2 + ["failed"] * 2, err
    for record in records:
        log = (world.runs / record["run_id"] / "run.log").read_text()
        assert log.count("training expander") == 1
        if record["status"] == "complete":
            assert record["inference"]["encoder"]["cost"]["threads"] == 2  # torch's; its own choice is 1 here
        else:
            assert "train.lr" in record["error"]
    assert len(list((world.folder / "cache").glob("*/manifest.json"))) == 1
    assert out.count("complete") == 2 and out.count("failed") >= 2
