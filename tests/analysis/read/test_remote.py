"""Records read from W&B over HTTP, compared with the folder that they came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.store.records import RECORD, iterate_records
from tests.sweep.tracking.wandb_server import ENTITY, Run, wandb_server

ROOT = Path(__file__).parents[3]


@pytest.fixture
def server(study):
    """A W&B server that has every run of `study`, in two groups."""
    with wandb_server() as server:
        for i, (_, record) in enumerate(iterate_records(study)):
            run = Run(record["run_id"], "p", ENTITY, {"groupName": "first" if i % 2 else "second"}, exit_code=0)
            run.files[RECORD] = json.dumps(record).encode()
            server.runs[run.name] = run
        yield server


@pytest.fixture
def analysis(server, tmp_path):
    """Runs `python -m analysis` with the server, in a folder and a home of its own."""

    def run(*arguments):
        command = [sys.executable, "-m", "analysis", *arguments, "--out", str(tmp_path / "out")]
        environment = {**os.environ, **server.environment(), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_figures_are_the_same_as_from_the_folder(analysis, server, study, tmp_path):
    read = {}
    for place in (("--wandb", f"{ENTITY}/p"), ("--runs", str(study))):
        for name in ("frontier", "learning_curves", "dominance"):
            done = analysis(name, *place)
            assert done.returncode == 0 and "Traceback" not in done.stderr and "wandb:" not in done.stderr, done
        written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix == ".csv"}
        figure = (tmp_path / "out" / "frontier.png").read_bytes()
        read[place[0]] = (written, figure)
    assert read["--wandb"] == read["--runs"] and len(read["--runs"][0]) > 3


def test_runs_are_listed_in_pages_and_a_record_is_downloaded_once(analysis, server, study):
    place = ("--wandb", f"{ENTITY}/p")
    assert len(server.runs) > 100
    assert analysis("table1", *place).returncode == 0
    pages = -(-len(server.runs) // 100)
    assert server.seen.count("Runs") == pages
    assert sum(asked.startswith("GET ") for asked in server.seen) == len(server.runs)
    server.seen.clear()
    assert analysis("table1", *place).returncode == 0
    assert server.seen.count("Runs") == pages and not any(asked.startswith("GET ") for asked in server.seen)
    name, run = next(iter(server.runs.items()))
    run.opened += 1  # written to again
    assert analysis("table1", *place).returncode == 0
    assert [asked for asked in server.seen if asked.startswith("GET ")] == [f"GET /storage/run/{name}/{RECORD}"]


def test_a_group_can_be_read_alone(analysis, server, tmp_path):
    done = analysis("pack", "--wandb", f"{ENTITY}/p", "--group", "first")
    half = sum(run.attributes["groupName"] == "first" for run in server.runs.values())
    assert done.returncode == 0 and f"{half} records" in done.stdout


def test_runs_without_a_record_are_left_out_and_counted(analysis, server):
    server.runs["running"] = Run("running", "p", ENTITY, {"groupName": "first"})
    done = analysis("table1", "--wandb", f"{ENTITY}/p")
    assert done.returncode == 0 and f"note: 1 run(s) of {ENTITY}/p without a record.json left out" in done.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        (("--wandb", "p"), "must be ENTITY/PROJECT"),
        (("--wandb", f"{ENTITY}/other"), "Could not find project other"),
        (("--wandb", f"{ENTITY}/p", "--group", "third"), "no run of it there"),
    ],
)
def test_an_error_about_a_project_or_group_is_one_line(analysis, options, message):
    done = analysis("frontier", *options)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_server_that_refuses_the_key_is_one_line(analysis, server):
    server.refuse = lambda asked: 401
    done = analysis("frontier", "--wandb", f"{ENTITY}/p")
    assert done.returncode == 1 and done.stderr.startswith("error: --wandb"), done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
