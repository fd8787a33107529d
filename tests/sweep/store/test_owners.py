"""Who holds a run, seen from another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from sweep.store.owners import Holder, running

HOLD = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_held_lock_is_seen_and_a_killed_holder_s_is_not(tmp_path, holder):
    said = {"stage": "training", "done": 3, "total": 9, "note": "", "pid": holder.pid, "host": "a", "since": "now"}
    assert running(tmp_path) == Holder(None, None, None, None)  # it holds and has said nothing yet
    (tmp_path / "progress.json").write_text(json.dumps(said))
    assert running(tmp_path) == Holder("training", "a", holder.pid, "now") == running(tmp_path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert running(tmp_path) is None


def test_asking_makes_no_file_and_leaves_the_lock_free(tmp_path):
    assert running(tmp_path) is None and running(tmp_path / "none") is None and not list(tmp_path.iterdir())
    (tmp_path / "lock").touch()
    assert running(tmp_path) is None
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as other:  # fmt: skip
        assert other.stdout.readline() == "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


@pytest.mark.parametrize("text", ["", "[1]", '{"stage": "tra'])
def test_damaged_progress_is_no_error(tmp_path, holder, text):
    (tmp_path / "progress.json").write_text(text)
    assert running(tmp_path) == Holder(None, None, None, None)
