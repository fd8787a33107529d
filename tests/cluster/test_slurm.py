"""Multiruns through sbatch on a real Slurm of one node, which `make test-slurm` starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time

import pytest

from tests.sweep.world import World


def slurm_answers():
    return shutil.which("sinfo") is not None and subprocess.run(["sinfo"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not slurm_answers(), reason="no Slurm answers here: make test-slurm starts one"),
]
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1"]
# Entries of a record that may differ between two sweeps of the same runs.
NOT_COMPARED = {"timings", "training", "finished", "config", "labels", "versions"}


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path / "slurm", model_folders["gpt_neox"], text_file)


@pytest.fixture
def elsewhere(tmp_path, model_folders, text_file):
    """A second world with its own folder, for an undisturbed sweep in one process."""
    return World(tmp_path / "elsewhere", model_folders["gpt_neox"], text_file)


def squeue(states="all"):
    """Return (job id, state) of the latest launch's workers: a Slurm array or, for a single worker, a job."""
    command = ["squeue", "--me", "--array", f"--states={states}", "--noheader", "--format=%i|%T"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    found = [tuple(line.split("|")) for line in lines]
    latest = max((int(job_id.split("_")[0]) for job_id, _ in found), default=0)
    return [(job_id, state) for job_id, state in found if job_id.split("_")[0] == str(latest)]


def states_at_the_end():
    """Return the states of the latest launch's workers once Slurm has seen them all end.

    That may be a little after the launch itself has read their results.
    """
    deadline = time.monotonic() + 30
    while any(state in ("RUNNING", "COMPLETING") for _, state in squeue()):
        assert time.monotonic() < deadline, squeue()
        time.sleep(0.2)
    return sorted(state for _, state in squeue())


def results(world):
    """Return {run id: the parts of its record that must not depend on how the sweep was carried out}."""
    return {
        record["run_id"]: {
            **{key: value for key, value in record.items() if key not in NOT_COMPARED},
            "inference": {name: found["metrics"] for name, found in record["inference"].items()},
        }
        for record in world.records()
    }


class WatchedPasses:
    """Collects, while the context lasts, the folders that LM passes write their activations into: one for each pass."""

    def __init__(self, world):
        self.cache, self.names, self._over = world.folder / "cache", set(), threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self.names

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _look(self):
        while not self._over.wait(0.002):
            self.names.update(path.name for path in self.cache.glob("*.writing-*"))


def test_several_workers_give_the_results_of_one_process(world, elsewhere):
    grid = ["-m", "d=2,3,4,5", "layer=0,1"]
    with WatchedPasses(world) as passes:
        code, _, err = world.sweep(*grid, *SLURM, "hydra.launcher.array_parallelism=3")
    assert code == 0 and "Traceback" not in err and "arning" not in err, err
    assert states_at_the_end() == ["COMPLETED"] * 3
    assert len(world.records()) == 8 and {record["status"] for record in world.records()} == {"complete"}
    for record in world.records():
        assert (world.runs / record["run_id"] / "run.log").read_text().count("training expander") == 1
    assert len(passes) == 2 and len({name.split(".writing-")[1] for name in passes}) == 1  # two layers, one writer
    code, _, err = elsewhere.sweep(*grid)
    assert code == 0, err
    assert results(world) == results(elsewhere)


def test_a_cancelled_worker_loses_no_run(world, elsewhere):
    long = ["-m", "d=2,3,4", "train.steps=3000", "train.checkpoint_every=500"]
    process = world.start(*long, *SLURM, "hydra.launcher.array_parallelism=2")
    world.until("runs/*/checkpoint.pt", process)
    running = [job_id for job_id, state in squeue("running") if state == "RUNNING"]
    subprocess.run(["scancel", running[0]], check=True)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and "Traceback" not in err, out + err
    assert states_at_the_end()[0] == "CANCELLED"
    assert len(world.records()) == 3
    code, out, _ = world.sweep(*long, *SLURM)
    assert code == 0 and "skipped: done" in out
    code, _, err = elsewhere.sweep(*long)
    assert code == 0, err
    assert results(world) == results(elsewhere)


def test_an_interrupt_cancels_the_workers_and_a_refused_job_is_a_one_line_error(world):
    process = world.start("-m", "d=2", "train.steps=100000", *SLURM)
    world.until("runs/*/progress.json", process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip().splitlines()[-1].startswith("interrupted: "), err
    assert states_at_the_end() == ["CANCELLED"]
    code, _, err = world.sweep("-m", "d=2", *SLURM, "hydra.launcher.partition=nowhere")
    last = err.splitlines()[-1]
    assert code == 1 and last.startswith("error: sbatch refused the workers: ") and "Invalid partition" in last
