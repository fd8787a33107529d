"""`python -m sweep.status` on run stores in every state, and beside a sweep that is killed."""

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

STARTED, BEFORE, SINCE = "2026-05-01T10:00:00+00:00", "2026-05-01T09:00:00+00:00", "2026-05-01T10:00:05+00:00"
ALL_STATES = ("done", "failed", "failed-before", "running", "killed", "waiting")


def launched(runs, *names, launch="2026-05-01_10-00-00"):
    """A launch of runs of these names, none of which has begun."""
    folder = runs / "launches" / launch
    folder.mkdir(parents=True)
    listed = [{"run_id": name, "title": f"expander {name}", "axes": {}, "arm": "expander"} for name in names]
    about = {"started": STARTED, "host": "elsewhere", "pid": 7, "command": "-m d=3,7", "code": "0a1b", "runs": listed,
             "left_out": [], "study": None}  # fmt: skip
    (folder / "launch.json").write_text(json.dumps(about))
    return folder


def ended(runs, name, how="complete", at=SINCE, **more):
    write_record(runs, {"schema": SCHEMA, "run_id": name, "status": how, "finished": at, "timings": {"total": 12.3},
                        "metrics": {"ce_recovered": 0.98765} if how == "complete" else {}, **more})  # fmt: skip


@contextmanager
def held(runs, name, text=None):
    (runs / name).mkdir()
    said = {"stage": "training", "done": 1, "total": 2, "note": "", "host": "node3", "pid": 4242, "since": SINCE}
    (runs / name / "progress.json").write_text(json.dumps(said) if text is None else text)
    with FileLock(runs / name / "lock"):
        yield


@pytest.fixture
def runs(tmp_path):
    runs = tmp_path / "runs"
    launched(runs, *ALL_STATES)
    ended(runs, "done")
    ended(runs, "failed", "failed", error="the loss became nan at step 3: lower train.lr or grad_clip")
    ended(runs, "failed-before", "failed", BEFORE, error="the disk was full")
    (runs / "killed").mkdir()
    (runs / "killed" / "checkpoint.pt").touch()
    (runs / "killed" / "progress.json").write_text(json.dumps({"stage": "training", "host": "a", "pid": 1}))
    (runs / "killed" / "lock").touch()  # its holder is gone
    return runs


def said(capsys, *arguments, code=0):
    assert status.main(list(map(str, arguments))) == code
    out, err = capsys.readouterr()
    return err if code else out


def line_of(page, name):
    (line,) = (line for line in page.splitlines() if line.split()[:1] == [name])
    return " ".join(line.split())


def test_every_state_is_told_with_its_detail(runs, capsys):
    with held(runs, "running"):
        page = said(capsys, "--runs", runs)
    assert "1 complete, 1 running, 1 failed, 3 to do, of 6" in page and "-m d=3,7" in page
    assert line_of(page, "done").endswith("complete CE recovered 0.9877, 12 s")
    assert "failed the loss became nan at step 3: lower train.lr or grad_clip" in line_of(page, "failed")
    assert line_of(page, "failed-before").endswith("to do failed before: the disk was full")
    assert "running training, node3 pid 4242 since " in line_of(page, "running")
    assert line_of(page, "killed").endswith("to do has a checkpoint")
    assert line_of(page, "waiting").endswith("waiting to do")
    assert "1 complete, 1 failed, 4 to do" in said(capsys, "all", "--runs", runs)


@pytest.mark.parametrize("text", ["", '{"stage": "trai', "[3]"])
def test_a_torn_progress_file_costs_its_detail_only(runs, capsys, text):
    with held(runs, "running", text):
        assert "running starting, another process" in line_of(said(capsys, "--runs", runs), "running")


@pytest.mark.parametrize("text", ["", '{"started": "20', "[]", "{}", '{"runs": 3}'])
def test_a_torn_launch_is_passed_over_and_no_other_is_a_line(runs, tmp_path, capsys, text):
    launched(runs, "later", launch="2026-05-02_10-00-00").joinpath("launch.json").write_text(text)
    assert "of 6" in said(capsys, "--runs", runs)
    (runs / "launches" / "2026-05-03_10-00-00").mkdir()  # of a launch that had not come to saying what it is
    assert "of 6" in said(capsys, "--runs", runs)
    only = tmp_path / "only"
    launched(only, "a").joinpath("launch.json").write_text(text)
    assert (
        said(capsys, "--runs", only, code=1) == f"error: --runs {only}: no launch in it; python -m sweep makes some\n"
    )


def test_names_that_fit_no_launch_or_no_folder_are_a_line(runs, tmp_path, capsys):
    launched(runs, "later", launch="2026-05-02_10-00-00")
    assert "of 6" in said(capsys, "2026-05-01", "--runs", runs)
    for arguments in (["2026-05"], ["1999"], ["--watch", "1999"]):
        line = said(capsys, *arguments, "--runs", runs, code=1)
        assert line.startswith("error: ") and line.count("\n") == 1
    line = said(capsys, "--runs", tmp_path / "nowhere", code=1)
    assert line == f"error: --runs {tmp_path / 'nowhere'}: no launch in it; python -m sweep makes some\n"


@pytest.mark.parametrize("text", ["", '{"schema": 1, "status": "compl', "[]", '{"schema": 1, "status": "complete"}'])
def test_a_torn_record_is_a_run_to_do(runs, capsys, text):
    (runs / "done" / "record.json").write_text(text)
    assert "to do" in line_of(said(capsys, "--runs", runs), "done")


def watching(runs):
    command = [sys.executable, "-m", "sweep.status", "--watch", "--runs", str(runs)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_watching_ends_with_the_last_run_and_by_an_interrupt(tmp_path):
    runs = tmp_path / "runs"
    launched(runs, "a", "b")
    ended(runs, "a")
    watchers = [watching(runs) for _ in range(2)]
    time.sleep(3)  # until both look
    assert [watcher.poll() for watcher in watchers] == [None, None]
    watchers[0].send_signal(signal.SIGINT)
    out, err = watchers[0].communicate(timeout=20)
    assert watchers[0].returncode == 130 and err == ""
    ended(runs, "b", "failed", error="the loss became nan")
    out, err = watchers[1].communicate(timeout=20)
    assert watchers[1].returncode == 0 and err == "" and "1 complete, 1 failed, of 2" in out


def test_a_real_sweep_under_way_and_killed(tmp_path, model_folders, text_file, capsys):
    world = World(tmp_path, model_folders["gpt_neox"], text_file)
    process = world.start("-m", "d=2,3", "train.steps=100000", "train.checkpoint_every=50")
    world.until("runs/*/checkpoint.pt", process)
    (checkpoint,) = world.runs.glob("*/checkpoint.pt")
    name = checkpoint.parent.name
    page = said(capsys, "--runs", world.runs)
    assert "1 running, 1 to do, of 2" in page and "(ended)" not in page
    assert f"running training, {os.uname().nodename} pid {process.pid} since " in line_of(page, name)
    process.kill()
    process.communicate()
    page = said(capsys, "--runs", world.runs)
    assert "2 to do, of 2" in page and line_of(page, name).endswith("to do has a checkpoint")
    assert f"pid {process.pid} (ended)" in page
