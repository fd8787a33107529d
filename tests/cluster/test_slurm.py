"""Multiruns through sbatch on a real Slurm of one node: `make test-slurm` starts it."""

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
# What may differ between two machines that ran the same thing.
MACHINES_OWN = {"timings", "training", "finished", "config", "labels", "versions"}


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path / "slurm", model_folders["gpt_neox"], text_file)


@pytest.fixture
def elsewhere(tmp_path, model_folders, text_file):
    """The same, for an undisturbed sweep in one process."""
    return World(tmp_path / "elsewhere", model_folders["gpt_neox"], text_file)


def squeue(states="all"):
    """(job id, state) of the latest launch's workers: an array, or where there is one only, a job."""
    command = ["squeue", "--me", "--array", f"--states={states}", "--noheader", "--format=%i|%T"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    found = [tuple(line.split("|")) for line in lines]
    latest = max((int(job_id.split("_")[0]) for job_id, _ in found), default=0)
    return [(job_id, state) for job_id, state in found if job_id.split("_")[0] == str(latest)]


def ended():
    """States of the latest launch's workers once Slurm has seen them all end: results are read a little earlier."""
    deadline = time.monotonic() + 30
    while any(state in ("RUNNING", "COMPLETING") for _, state in squeue()):
        assert time.monotonic() < deadline, squeue()
        time.sleep(0.2)
    return sorted(state for _, state in squeue())


def results(world):
    """What the records say, less what is a machine's own."""
    return {
        record["run_id"]: {
            **{key: value for key, value in record.items() if key not in MACHINES_OWN},
            "inference": {name: found["metrics"] for name, found in record["inference"].items()},
        }
        for record in world.records()
    }


class PassesSeen:
    """The folders that LM passes wrote their activations into while the context lasted: one for each pass."""

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


def test_several_workers_make_what_one_process_makes(world, elsewhere):
    grid = ["-m", "d=2,3,4,5", "layer=0,1"]
    with PassesSeen(world) as passes:
        code, _, err = world.sweep(*grid, *SLURM, "hydra.launcher.array_parallelism=3")
    assert code == 0 and "Traceback" not in err and "arning" not in err, err
    assert ended() == ["COMPLETED"] * 3
    assert len(world.records()) == 8 and {record["status"] for record in world.records()} == {"complete"}
    for record in world.records():
        assert (world.runs / record["run_id"] / "run.log").read_text().count("training expander") == 1
    assert len(passes) == 2 and len({name.split(".writing-")[1] for name in passes}) == 1  # two layers, one writer
    code, _, err = elsewhere.sweep(*grid)
    assert code == 0, err
    assert results(world) == results(elsewhere)


def test_a_cancelled_worker_costs_nothing(world, elsewhere):
    long = ["-m", "d=2,3,4", "train.steps=3000", "train.checkpoint_every=500"]
    process = world.start(*long, *SLURM, "hydra.launcher.array_parallelism=2")
    world.until("runs/*/checkpoint.pt", process)
    running = [job_id for job_id, state in squeue("running") if state == "RUNNING"]
    subprocess.run(["scancel", running[0]], check=True)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0 and "Traceback" not in err, out + err
    assert ended()[0] == "CANCELLED"
    assert len(world.records()) == 3
    code, out, _ = world.sweep(*long, *SLURM)
    assert code == 0 and "skipped: done" in out
    code, _, err = elsewhere.sweep(*long)
    assert code == 0, err
    assert results(world) == results(elsewhere)


def test_an_interrupt_cancels_the_workers_and_what_slurm_refuses_is_one_line(world):
    process = world.start("-m", "d=2", "train.steps=100000", *SLURM)
    world.until("runs/*/progress.json", process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip().splitlines()[-1].startswith("interrupted: "), err
    assert ended() == ["CANCELLED"]
    code, _, err = world.sweep("-m", "d=2", *SLURM, "hydra.launcher.partition=nowhere")
    last = err.splitlines()[-1]
    assert code == 1 and last.startswith("error: sbatch refused the workers: ") and "Invalid partition" in last
