"""One holder for each device, with real processes and made-up devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sweep.machine.gpus import allotted, one_of

ROOT = Path(__file__).parents[3]
# A worker: as often as asked, holds a device, writes its name where only one may, and removes that again.
WORKER = """
import os, sys, time
from pathlib import Path
from sweep.devices import one_of
folder, names, times, seconds = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), float(sys.argv[4])
for _ in range(times):
    with one_of({name: name for name in names}, folder / "locks", poll=0.01) as name:
        mine = folder / f"{name}.held"
        os.close(os.open(mine, os.O_CREAT | os.O_EXCL))  # fails where another holds it
        with (folder / "log").open("a") as log:
            log.write(name + "\\n")
        time.sleep(seconds)
        mine.unlink()
"""


def start(folder, names, times, seconds):
    command = [sys.executable, "-c", WORKER, str(folder), names, str(times), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_never_two_holders_of_one_device(tmp_path):
    workers = [start(tmp_path, "cuda:0,cuda:1", 20, 0.02) for _ in range(3)]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 3, errors
    log = (tmp_path / "log").read_text().split()
    assert len(log) == 60 and set(log) == {"cuda:0", "cuda:1"}


def test_a_killed_holder_s_device_is_free_at_once(tmp_path):
    holder = start(tmp_path, "cuda:0", 1, 600)
    try:
        until((tmp_path / "cuda:0.held").exists)
        waited = []
        keys = {"cuda:0": "cuda:0", "cuda:1": "cuda:1"}
        with one_of(keys, tmp_path / "locks") as name:
            assert name == "cuda:1"
        with pytest.raises(TimeoutError), one_of({"cuda:0": "cuda:0"}, tmp_path / "locks", give_up_after(0.3)):
            raise AssertionError("two holders")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with one_of({"cuda:0": "cuda:0"}, tmp_path / "locks", lambda: waited.append(True)) as name:
            assert name == "cuda:0" and not waited
    finally:
        holder.kill()
        holder.communicate()


def give_up_after(seconds):
    """`on_wait` that ends the waiting by a signal."""

    def late(*_):
        raise TimeoutError

    def on_wait():
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return on_wait


def test_waiting_is_told_once_and_ends_with_the_holder(tmp_path):
    holder = start(tmp_path, "cuda:1", 1, 1.0)
    until((tmp_path / "cuda:1.held").exists)
    told = []
    with one_of({"cuda:1": "cuda:1"}, tmp_path / "locks", lambda: told.append(True)) as name:
        assert name == "cuda:1" and told == [True] and not (tmp_path / "cuda:1.held").exists()
    holder.communicate()
    assert holder.returncode == 0


def test_a_cpu_is_not_given_out():
    with allotted("cpu") as outer, allotted("cpu") as inner:
        assert outer == inner == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_the_device_stays_what_it_says():
    with allotted("auto") as one, allotted("auto") as other:
        assert one == other == "auto"
    with allotted("cuda:7") as named:
        assert named == "cuda:7"


@pytest.mark.gpu
def test_a_gpu_is_given_to_one_at_a_time():
    with allotted("auto") as name:
        assert name.startswith("cuda:") and torch.empty(1, device=name).is_cuda
        if torch.cuda.device_count() == 1:
            with pytest.raises(TimeoutError), allotted("cuda", give_up_after(0.3)):
                raise AssertionError("two holders")
