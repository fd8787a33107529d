"""`sweep.machine.workers` reads the number of workers and of their threads from the launchers' configs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import sweep.launch  # noqa: F401  (registers the resolver of the folders' names)
from sweep.machine.workers import (
    Workers,
    default_worker_count,
    register_resolvers,
    usable_cpus,
    visible_gpus,
    with_asked_workers,
    workers_of,
)

SLURM = {"cpus_per_task": 6, "array_parallelism": 20}
TWO_GPUS = {"num_gpus": 2}
# (launcher's config, threads asked for, workers asked for, what the launcher starts), on a machine of eight CPUs
CASES = [
    ({}, None, None, Workers(1, None)),
    ({}, 3, None, Workers(1, 3)),
    ({"n_jobs": 4}, None, None, Workers(4, 2)),
    ({"n_jobs": 4}, 1, None, Workers(4, 1)),
    ({"n_jobs": 3}, None, None, Workers(3, 2)),
    ({"n_jobs": 16}, None, None, Workers(16, 1)),
    ({"n_jobs": -1}, None, None, Workers(8, 1)),
    ({"n_jobs": -2}, None, None, Workers(7, 1)),
    ({"n_jobs": -99}, None, None, Workers(1, 8)),
    ({"n_jobs": None}, None, None, Workers(1, 8)),
    ({"n_jobs": 4}, None, 2, Workers(2, 4)),
    (SLURM, None, None, Workers(20, 6)),
    ({**SLURM, "cpus_per_task": None}, None, None, Workers(20, 1)),
    (SLURM, 2, 50, Workers(50, 2)),
    ({"cpus_per_task": 3, "gpus_per_node": 0}, None, None, Workers(2, 3)),
    ({"cpus_per_task": 3, "gpus_per_node": 4}, None, None, Workers(4, 3)),
    ({"cpus_per_task": 30}, None, None, Workers(1, 30)),
    ({"ray": {"init": {"address": None}, "remote": {"num_cpus": 2}}}, None, None, Workers(4, 2)),
    ({"ray": {"init": {"num_cpus": 3}, "remote": {}}}, None, None, Workers(3, 1)),
    ({"ray": {"init": TWO_GPUS, "remote": {"num_cpus": 1, "num_gpus": 1}}}, None, None, Workers(2, 1)),
    ({"ray": {"init": TWO_GPUS, "remote": {"num_cpus": 1, "num_gpus": 0.5}}}, None, None, Workers(4, 1)),
    ({"ray": {"init": {"address": "auto"}, "remote": {"num_cpus": 4}}}, None, 16, Workers(16, 4)),
]
# (launcher's config, workers asked for, the error)
BAD_CASES = [
    ({}, 0, "launch.workers=0 must be at least 1"),
    ({"n_jobs": 4}, 1.5, "launch.workers=1.5 must be a whole number"),
    ({"n_jobs": 0}, None, "hydra.launcher.n_jobs=0 must be at least 1"),
    ({"n_jobs": "many"}, None, "hydra.launcher.n_jobs=many must be a whole number"),
    ({"cpus_per_task": 0}, None, "hydra.launcher.cpus_per_task=0 must be at least 1"),
    ({**SLURM, "array_parallelism": -1}, None, "hydra.launcher.array_parallelism=-1 must be at least 1"),
    ({"ray": {"remote": {"num_cpus": 0.5}}}, None, "hydra.launcher.ray.remote.num_cpus=0.5 must be a whole number"),
    ({"ray": {"init": {"address": "auto"}}}, None, "launch.workers must be given"),
]


@pytest.fixture
def eight_cpus(monkeypatch):
    """Let the present process believe that it may use eight CPUs."""
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr("sweep.machine.workers.usable_cpus", lambda: 8)


@pytest.mark.parametrize("launcher, threads, asked, expected", CASES)
def test_workers_and_threads_follow_from_the_launchers_config(eight_cpus, launcher, threads, asked, expected):
    assert workers_of(OmegaConf.create(launcher), threads, asked) == expected


@pytest.mark.parametrize("launcher, asked, message", BAD_CASES)
def test_an_impossible_number_of_workers_is_an_error_that_names_the_key(launcher, asked, message):
    with pytest.raises(ValueError, match=message):
        workers_of(OmegaConf.create(launcher), None, asked)


def cpus_seen_by_a_new_process(**environment):
    code = "from sweep.machine.workers import usable_cpus; print(usable_cpus())"
    return int(subprocess.check_output([sys.executable, "-c", code], env={**os.environ, **environment}, text=True))


def test_usable_cpus_are_limited_by_affinity_and_by_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
    everywhere = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everywhere)})  # a child inherits it
        assert cpus_seen_by_a_new_process() == 1
    finally:
        os.sched_setaffinity(0, everywhere)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert usable_cpus() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "100000")
    assert usable_cpus() <= len(everywhere)


def test_the_presets_give_one_worker_per_cpu_and_replace_the_plugins_own_configs(recwarn):
    register_resolvers()
    with initialize_config_module("conf", version_base="1.3"):
        for preset in ("joblib", "submitit_local", "submitit_slurm", "ray"):
            cfg = compose(
                "config", [f"hydra/launcher={preset}", "device=cpu", "hydra.sweep.dir=here"], return_hydra_config=True
            )
            plain = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
            workers = workers_of(cfg.hydra.launcher, None)
            if preset == "submitit_slurm":
                assert workers == Workers(4, 2) and plain["srun_args"] == ["--cpus-per-task=2"]
            else:
                assert workers == Workers(usable_cpus(), 1), json.dumps(plain)
        frontier = compose("config", ["experiment=frontier"], return_hydra_config=True)
    assert workers_of(frontier.hydra.launcher, frontier.threads) == Workers(2, 1)
    assert not [warning for warning in recwarn if "ConfigStore" in str(warning.message)]


@pytest.mark.parametrize("launcher, limit", [("joblib", "n_jobs"), ("submitit_slurm", "array_parallelism")])
def test_launch_workers_wins_over_the_launchers_own_limit(launcher, limit):
    register_resolvers()
    with initialize_config_module("conf", version_base="1.3"):
        overrides = [f"hydra/launcher={launcher}", f"hydra.launcher.{limit}=2"]
        without = compose("config", overrides, return_hydra_config=True)
        asked = compose("config", [*overrides, "launch.workers=5"], return_hydra_config=True)
    assert with_asked_workers(without) is without
    folder = asked.hydra.sweep.dir
    changed = with_asked_workers(asked)
    assert changed.hydra.launcher[limit] == 5 and asked.hydra.launcher[limit] == 2
    assert changed.hydra.sweep.dir == folder and workers_of(changed.hydra.launcher, None, 5).count == 5


def test_the_device_setting_determines_the_number_of_gpus():
    import torch

    found = torch.cuda.device_count()
    assert visible_gpus("cpu") == 0 and visible_gpus() == visible_gpus("cuda") == found
    assert visible_gpus("cuda:0") == visible_gpus("auto", 1) == min(found, 1)
    assert default_worker_count("cpu") == usable_cpus()
