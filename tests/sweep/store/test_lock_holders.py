"""`sweep.store.lock_holders` finds the process that holds a run's lock from outside that process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from sweep.store.lock_holders import Holder, find_holder

# Holds the lock that its argument names, until its input ends; prints a line once it has it.
HOLD = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path`'s lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_holder_is_found_until_it_is_killed(tmp_path, holder):
    progress = {"stage": "training", "done": 3, "total": 9, "note": "", "pid": holder.pid, "host": "a", "since": "now"}
    assert find_holder(tmp_path) == Holder(None, None, None, None)  # it has written no progress.json yet
    (tmp_path / "progress.json").write_text(json.dumps(progress))
    assert find_holder(tmp_path) == Holder("training", "a", holder.pid, "now") == find_holder(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert find_holder(tmp_path) is None


def test_looking_for_a_holder_makes_no_file_and_leaves_the_lock_free(tmp_path):
    assert find_holder(tmp_path) is None and find_holder(tmp_path / "none") is None and not list(tmp_path.iterdir())
    (tmp_path / "lock").touch()
    assert find_holder(tmp_path) is None
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **quiet) as other:
        assert other.stdout.readline() == "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


@pytest.mark.parametrize("text", ["", "[1]", '{"stage": "tra'])
def test_a_damaged_progress_file_is_no_error(tmp_path, holder, text):
    (tmp_path / "progress.json").write_text(text)
    assert find_holder(tmp_path) == Holder(None, None, None, None)
