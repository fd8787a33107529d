"""`launch.fail_fast`, and `python -m sweep.retry` on a launch with runs that failed: real sweeps in a small world."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from sweep import retry
from sweep.store.records import write_record
from tests.sweep.test_status import AFTER, end_run, write_launch
from tests.sweep.world import ROOT, World

# Of these, in this order, the second becomes nan.
ONE_FAILS = ["-m", "seed=0", "train.lr=3e-4,1e30,2e-4", "train.grad_clip=1e30", "train.lr_final=0"]


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path, model_folders["gpt_neox"], text_file)


def retried(world, *arguments):
    """Run `python -m sweep.retry` to its end; return (exit code, stdout, stderr)."""
    command = [sys.executable, "-m", "sweep.retry", "--runs", str(world.runs), *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    return found.returncode, found.stdout, found.stderr


def test_after_a_failure_no_run_begins_and_retry_tries_the_failed_one_alone(world):
    code, out, err = world.sweep("launch.fail_fast=true", *ONE_FAILS)
    print(out, err)
    assert code == 1 and sorted(record["status"] for record in world.records()) == ["complete", "failed"]
    assert "not finished" in out and "launch.fail_fast=true, and a run had failed" in out
    (failed,) = [record for record in world.records() if record["status"] == "failed"]
    log = world.runs / failed["run_id"] / "run.log"
    assert str(log) in err + out and "Traceback" in log.read_text()  # said when it happened, and again at the end

    (launch,) = (world.runs / "launches").iterdir()
    code, out, err = retried(world, "--plan")
    assert code == 0 and f"1 of 3 runs of {launch.name} failed" in out and "1 run: 0 complete, 1 to do" in out

    code, out, err = retried(world, launch.name)
    assert code == 1 and out.count("the loss became") >= 1  # it was tried again, and fails again
    assert len(world.records()) == 2  # the third run, which had never begun, was not asked for
    complete = next(record for record in world.records() if record["status"] == "complete")
    write_record(world.runs, {**complete, "run_id": failed["run_id"]})
    code, out, err = retried(world, launch.name)
    assert (code, err) == (0, "") and out.startswith(f"no run of {launch.name} has failed\n1 of 3 are to do, which the")


def test_words_of_a_command_that_the_shell_had_quoted_are_kept(world):
    spaced = world.folder / "text of mine.txt"
    shutil.copy(next(a for a in world.common if a.startswith("corpus.path=")).removeprefix("corpus.path="), spaced)
    world.common = [f"corpus.path='{spaced}'" if a.startswith("corpus.path=") else a for a in world.common]
    world.sweep(*ONE_FAILS)
    (launch,) = (world.runs / "launches").iterdir()
    assert f"corpus.path='{spaced}'" in json.loads((launch / "launch.json").read_text())["arguments"]
    code, out, err = retried(world, "--plan")
    assert code == 0 and "1 to do" in out, err


def test_what_cannot_be_retried_is_one_line(tmp_path, capsys):
    folder = write_launch(tmp_path, "done", "failed")
    end_run(tmp_path, "done")
    assert retry.main(["--runs", str(tmp_path)]) == 0 and "no run of" in capsys.readouterr().out
    end_run(tmp_path, "failed", "failed", AFTER, error="nan")
    about = json.loads((folder / "launch.json").read_text())
    (folder / "launch.json").write_text(json.dumps({**about, "study": {"name": "s", "n_trials": 3}}))
    for arguments, said in ([], "is a search"), (["all"], "the name of one launch"), (["x"], "no launch"):
        assert retry.main([*arguments, "--runs", str(tmp_path)]) == 1
        assert said in capsys.readouterr().err
