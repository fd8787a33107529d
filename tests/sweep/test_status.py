"""`python -m sweep.status` on runs in every state, on damaged files, and beside a sweep that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from filelock import FileLock

from sweep import status
from sweep.store.records import SCHEMA, write_record
from tests.sweep.world import ROOT, World

# When the launch started, a time before, and a time after.
STARTED, BEFORE, AFTER = "2026-05-01T10:00:00+00:00", "2026-05-01T09:00:00+00:00", "2026-05-01T10:00:05+00:00"
# Run ids that say what became of the run.
RUNS = ("done", "dropped", "dropped-before", "failed", "failed-before", "running", "killed", "waiting")


def write_launch(runs, *names, launch="2026-05-01_10-00-00"):
    """Write the folder of a launch that asks for runs with these ids, none of which has begun; return it."""
    folder = runs / "launches" / launch
    folder.mkdir(parents=True)
    listed = [{"run_id": name, "title": f"expander {name}", "axes": {}, "arm": "expander"} for name in names]
    process = {"started": STARTED, "host": "elsewhere", "pid": 7, "command": "-m d=3,7", "code": "0a1b"}
    about = {**process, "runs": listed, "left_out": [], "study": None}
    (folder / "launch.json").write_text(json.dumps(about))
    return folder


def end_run(runs, name, status="complete", finished=AFTER, **more):
    metrics = {"ce_recovered": 0.98765} if status == "complete" else {}
    known = {"schema": SCHEMA, "run_id": name, "status": status, "finished": finished, "timings": {"total": 12.3}}
    write_record(runs, {**known, "metrics": metrics, **more})


@contextmanager
def work_on(runs, name, progress=None):
    """Hold the run's lock as if working on it; `progress` is the text of its progress.json."""
    (runs / name).mkdir()
    written = {"stage": "training", "done": 1, "total": 2, "note": "", "host": "node3", "pid": 4242, "since": AFTER}
    (runs / name / "progress.json").write_text(json.dumps(written) if progress is None else progress)
    with FileLock(runs / name / "lock"):
        yield


@pytest.fixture
def runs(tmp_path):
    runs = tmp_path / "runs"
    write_launch(runs, *RUNS)
    end_run(runs, "done")
    end_run(runs, "dropped", "dropped", dropped={"step": 300, "why": "FVU 0.9 at 30 % of training is more"})
    end_run(runs, "dropped-before", "dropped", BEFORE, dropped={"step": 50, "why": "FVU 0.8 is more"})
    end_run(runs, "failed", "failed", error="the loss became nan at step 3: lower train.lr or grad_clip")
    end_run(runs, "failed-before", "failed", BEFORE, error="the disk was full")
    (runs / "killed").mkdir()
    (runs / "killed" / "checkpoint.pt").touch()
    (runs / "killed" / "progress.json").write_text(json.dumps({"stage": "training", "host": "a", "pid": 1}))
    (runs / "killed" / "lock").touch()  # nobody holds it any more
    return runs


def printed(capsys, *arguments, code=0):
    """Run sweep.status in this process; return what it prints, for another exit code what it prints as errors."""
    assert status.main(list(map(str, arguments))) == code
    out, err = capsys.readouterr()
    return err if code else out


def line_of(page, name):
    """Return the table's line about a run, with single spaces."""
    (line,) = (line for line in page.splitlines() if line.split()[:1] == [name])
    return " ".join(line.split())


def test_every_run_is_shown_with_its_state_and_detail(runs, capsys):
    with work_on(runs, "running"):
        page = printed(capsys, "--runs", runs)
    assert "8 runs: 1 complete, 1 running, 1 dropped, 1 failed, 4 to do" in page and "python -m sweep -m d=3,7" in page
    assert line_of(page, "done").endswith("complete CE recovered 0.9877, 12 s")
    assert line_of(page, "dropped").endswith("dropped dropped at step 300: FVU 0.9 at 30 % of training is more")
    assert line_of(page, "dropped-before").endswith("to do before: dropped at step 50: FVU 0.8 is more")
    assert "failed the loss became nan at step 3: lower train.lr or grad_clip" in line_of(page, "failed")
    assert line_of(page, "failed-before").endswith("to do failed before: the disk was full")
    assert "running training, node3 pid 4242 since " in line_of(page, "running")
    assert line_of(page, "killed").endswith("to do has a checkpoint")
    assert line_of(page, "waiting").endswith("waiting to do")
    assert "8 runs: 1 complete, 1 dropped, 1 failed, 5 to do" in printed(capsys, "all", "--runs", runs)


@pytest.mark.parametrize("text", ["", '{"stage": "trai', "[3]"])
def test_a_run_with_a_damaged_progress_file_is_still_shown_as_running(runs, capsys, text):
    with work_on(runs, "running", text):
        assert "running starting, another process" in line_of(printed(capsys, "--runs", runs), "running")


@pytest.mark.parametrize("text", ["", '{"started": "20', "[]", "{}", '{"runs": 3}'])
def test_damaged_launches_are_passed_over_and_a_store_of_only_these_is_a_one_line_error(runs, tmp_path, capsys, text):
    write_launch(runs, "later", launch="2026-05-02_10-00-00").joinpath("launch.json").write_text(text)
    assert "8 runs: " in printed(capsys, "--runs", runs)
    (runs / "launches" / "2026-05-03_10-00-00").mkdir()  # a launch that ended before it had written its launch.json
    assert "8 runs: " in printed(capsys, "--runs", runs)
    only = tmp_path / "only"
    write_launch(only, "a").joinpath("launch.json").write_text(text)
    assert printed(capsys, "--runs", only, code=1) == no_launch_error(only)


def no_launch_error(runs):
    return f"error: --runs {runs}: there is no launch in it; python -m sweep makes one\n"


def test_launch_names_that_fit_none_or_several_and_unknown_folders_are_one_line_errors(runs, tmp_path, capsys):
    write_launch(runs, "later", launch="2026-05-02_10-00-00")
    assert "8 runs: " in printed(capsys, "2026-05-01", "--runs", runs)
    for arguments in (["2026-05"], ["1999"], ["--watch", "1999"]):
        line = printed(capsys, *arguments, "--runs", runs, code=1)
        assert line.startswith("error: ") and line.count("\n") == 1
    nowhere = tmp_path / "nowhere"
    assert printed(capsys, "--runs", nowhere, code=1) == no_launch_error(nowhere)
    assert printed(capsys, "all", "--runs", nowhere) == f"there is no launch in {nowhere}\n"


@pytest.mark.parametrize("text", ["", '{"schema": 1, "status": "compl', "[]", '{"schema": 1, "status": "complete"}'])
def test_a_run_with_a_damaged_record_is_to_do(runs, capsys, text):
    (runs / "done" / "record.json").write_text(text)
    assert "to do" in line_of(printed(capsys, "--runs", runs), "done")


def start_watching(runs):
    command = [sys.executable, "-m", "sweep.status", "--watch", "--runs", str(runs)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_watching_ends_with_the_last_run_or_by_an_interrupt(tmp_path):
    runs = tmp_path / "runs"
    write_launch(runs, "a", "b")
    end_run(runs, "a")
    watchers = [start_watching(runs) for _ in range(2)]
    time.sleep(3)  # long enough for both to have started
    assert [watcher.poll() for watcher in watchers] == [None, None]
    watchers[0].send_signal(signal.SIGINT)
    out, err = watchers[0].communicate(timeout=20)
    assert watchers[0].returncode == 130 and err == ""
    end_run(runs, "b", "failed", error="the loss became nan")
    out, err = watchers[1].communicate(timeout=20)
    assert watchers[1].returncode == 0 and err == "" and "2 runs: 1 complete, 1 failed" in out


def test_a_real_sweep_is_shown_as_running_and_after_a_kill_as_to_do(tmp_path, model_folders, text_file, capsys):
    world = World(tmp_path, model_folders["gpt_neox"], text_file)
    process = world.start("-m", "d=2,3", "train.steps=100000", "train.checkpoint_every=50")
    world.until("runs/*/checkpoint.pt", process)
    (checkpoint,) = world.runs.glob("*/checkpoint.pt")
    name = checkpoint.parent.name
    page = printed(capsys, "--runs", world.runs)
    assert "2 runs: 1 running, 1 to do" in page and "(ended)" not in page
    assert f"running training, {os.uname().nodename} pid {process.pid} since " in line_of(page, name)
    process.kill()
    process.communicate()
    page = printed(capsys, "--runs", world.runs)
    assert "2 runs: 2 to do" in page and line_of(page, name).endswith("to do has a checkpoint")
    assert f"pid {process.pid} (ended)" in page
