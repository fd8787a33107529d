"""Each device has one holder at a time: tested with real processes and made-up devices."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sweep.machine.gpus import hold_device, hold_first_free

ROOT = Path(__file__).parents[3]
# A worker that holds a device `times` times for `seconds`. Meanwhile it keeps a file named after the device, which must
# not exist before: two holders of one device would be an error.
WORKER = """
import os, sys, time
from pathlib import Path
from sweep.machine.gpus import hold_first_free
folder, names, times, seconds = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), float(sys.argv[4])
for _ in range(times):
    with hold_first_free({name: name for name in names}, folder / "locks", poll=0.01) as name:
        mine = folder / f"{name}.held"
        os.close(os.open(mine, os.O_CREAT | os.O_EXCL))  # fails where another holds it
        with (folder / "log").open("a") as log:
            log.write(name + "\\n")
        time.sleep(seconds)
        mine.unlink()
"""


def start_worker(folder, names, times, seconds):
    command = [sys.executable, "-c", WORKER, str(folder), names, str(times), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_device_never_has_two_holders(tmp_path):
    workers = [start_worker(tmp_path, "cuda:0,cuda:1", 20, 0.02) for _ in range(3)]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 3, errors
    log = (tmp_path / "log").read_text().split()
    assert len(log) == 60 and set(log) == {"cuda:0", "cuda:1"}


def test_the_device_of_a_killed_holder_is_free_at_once(tmp_path):
    holder = start_worker(tmp_path, "cuda:0", 1, 600)
    try:
        wait_until((tmp_path / "cuda:0.held").exists)
        waited = []
        keys = {"cuda:0": "cuda:0", "cuda:1": "cuda:1"}
        with hold_first_free(keys, tmp_path / "locks") as name:
            assert name == "cuda:1"
        taken = {"cuda:0": "cuda:0"}
        with pytest.raises(TimeoutError), hold_first_free(taken, tmp_path / "locks", give_up_after(0.3)):
            raise AssertionError("two holders")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with hold_first_free(taken, tmp_path / "locks", lambda: waited.append(True)) as name:
            assert name == "cuda:0" and not waited
    finally:
        holder.kill()
        holder.communicate()


def give_up_after(seconds):
    """Return an `on_wait` that ends the waiting after `seconds` with a TimeoutError, by a signal."""

    def late(*_):
        raise TimeoutError

    def on_wait():
        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return on_wait


def test_on_wait_is_called_once_and_waiting_ends_with_the_holder(tmp_path):
    holder = start_worker(tmp_path, "cuda:1", 1, 1.0)
    wait_until((tmp_path / "cuda:1.held").exists)
    waited = []
    with hold_first_free({"cuda:1": "cuda:1"}, tmp_path / "locks", lambda: waited.append(True)) as name:
        assert name == "cuda:1" and waited == [True] and not (tmp_path / "cuda:1.held").exists()
    holder.communicate()
    assert holder.returncode == 0


def test_any_number_of_runs_share_the_cpu():
    with hold_device("cpu") as outer, hold_device("cpu") as inner:
        assert outer == inner == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_every_device_name_is_passed_on_as_it_is():
    with hold_device("auto") as one, hold_device("auto") as other:
        assert one == other == "auto"
    with hold_device("cuda:7") as named:
        assert named == "cuda:7"


@pytest.mark.gpu
def test_a_gpu_is_held_by_one_run_at_a_time():
    with hold_device("auto") as name:
        assert name.startswith("cuda:") and torch.empty(1, device=name).is_cuda
        if torch.cuda.device_count() == 1:
            with pytest.raises(TimeoutError), hold_device("cuda", give_up_after(0.3)):
                raise AssertionError("two holders")
