"""Weights & Biases over HTTP, against a server of this machine: real processes, W&B's own client."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from sweep.store.metric_names import (
    AXES,
    CE_RECOVERED,
    CURVES,
    LABELS,
    PREFIXES,
    SIZES,
    STEP,
    STORED_BYTES,
)
from sweep.store.records import RECORD, SENT
from sweep.tracking.wandb_tracker import TrackerConfig, WandbTracker
from tests.sweep.tracking.wandb_server import ENTITY, wandb_server
from tests.sweep.world import ROOT, World

ONLINE = "tracker.mode=online"


@pytest.fixture
def server():
    with wandb_server() as server:
        yield server


@pytest.fixture
def world(tmp_path, model_folders, text_file, server, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # neither this machine's credentials nor its caches
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return World(tmp_path, model_folders["gpt_neox"], text_file)


@pytest.fixture(scope="module")
def made(tmp_path_factory, model_folders, text_file):
    """A sweep of two runs that nothing has tracked."""
    world = World(tmp_path_factory.mktemp("made"), model_folders["gpt_neox"], text_file)
    assert world.sweep("-m", "d=2,3")[0] == 0
    return world.runs


@pytest.fixture
def untracked(world, made):
    """`world` with a copy of that sweep."""
    shutil.copytree(made, world.runs)
    return world


def sync(world, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "sweep.sync", *arguments, "--runs", str(world.runs)],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


SOMETIMES = {"novelty", "cosine", "status", "run_id"}  # of the README's table; the last two stand in no part
OTHER = {"value_bits", "source", "near_dead_rate", "dead_fraction", "tokens", "contexts", "train_tokens_per_second"}


def readme(row):
    """The names in a row of the README's table, by how the row begins."""
    lines = (ROOT / "README.md").read_text().splitlines()
    (line,) = (line for line in lines if re.match(rf"\| {re.escape(row)}", line))
    return {name.split("/")[-1] if "/..." not in name else name.split("/")[0]
            for name in re.findall(r"`([^`]+)`", line.split("|")[2])}  # fmt: skip


def as_the_readme_says(run):
    assert readme("config") == {*LABELS, *AXES, *SIZES, "settings", "spec", "versions"} == set(run.config) - {"_wandb"}
    assert {STEP, *(f"train/{name}" for name in readme("curves"))} == set(CURVES)
    assert readme("files") == {RECORD} <= set(run.files)
    for part in ("storage", "metrics", "timings", "latents"):
        prefix = PREFIXES[part]
        logged = {name.removeprefix(prefix).split("/")[0] for name in run.summary if name.startswith(prefix)}
        listed = readme(f"`{prefix}...`")
        assert logged - {"encoder"} <= listed | OTHER and listed - logged <= SOMETIMES, part


def whole(server, world):
    """Asserts that the server has every run as the run store has it, each report once."""
    records = world.records()
    assert {record["run_id"] for record in records} == set(server.runs)
    for record in records:
        run = server.runs[record["run_id"]]
        assert [row["train/step"] for row in run.history] == [50, 100] and run.exit_code == 0
        assert set(CURVES) <= set(run.history[0])
        assert json.loads(run.files[RECORD]) == record
        assert run.summary[CE_RECOVERED] == record["metrics"]["ce_recovered"]
        assert run.summary[STORED_BYTES] == record["storage"]["artifact_bytes"]
        axes = {key: run.config[key] for key in record["axes"]}
        assert axes == record["axes"] and run.config["arm"] == record["labels"]["arm"]
        assert run.attributes["groupName"] == record["labels"]["sweep"]
        assert run.attributes["displayName"] == record["title"]


def test_a_run_online_is_whole_on_the_server(world, server):
    code, _, err = world.sweep(ONLINE, "save_artifact=true", disabled=False)
    assert code == 0 and "warning" not in err and "wandb:" not in err, err
    whole(server, world)
    (record,) = world.records()
    artifact = server.artifacts[f"sae-{record['run_id']}"]
    assert artifact.committed and artifact.type == "sae"
    weights = (world.runs / record["run_id"] / "sae.safetensors").read_bytes()
    assert artifact.files["sae.safetensors"] == weights
    assert "1 in Weights & Biases already" in sync(world, "all").stdout
    (run,) = server.runs.values()
    as_the_readme_says(run)


def test_an_offline_sweep_is_sent_by_one_command_and_only_once(untracked, server):
    world = untracked
    assert world.sweep("-m", "d=5", disabled=False)[0] == 0  # another sweep, logged offline
    assert list(world.runs.glob("*/wandb/offline-run-*")) and not server.runs
    said = sync(world, "--dry-run")
    assert said.returncode == 0 and said.stdout.count("would go to you/expander-sae") == 1 and not server.runs
    first = min(os.listdir(world.runs / "launches"))
    assert (said := sync(world, first)).returncode == 0 and said.stdout.count(": sent") == 2, said
    assert len(server.runs) == 2
    assert sync(world, "all").stdout.count(": sent") == 1
    whole(server, world)
    before = {name: run.opened for name, run in server.runs.items()}
    assert "3 in Weights & Biases already" in sync(world, "all").stdout
    assert before == {name: run.opened for name, run in server.runs.items()}
    assert sync(world, "all", "--again").returncode == 0  # the server alone knows what it has
    whole(server, world)


def test_what_was_interrupted_is_sent_again_without_duplicates(untracked, server):
    world = untracked
    server.refuse = lambda asked: 500 if RECORD in asked or "CreateRunFiles" in asked else None
    process = subprocess.Popen(
        [sys.executable, "-m", "sweep.sync", "--runs", str(world.runs)], cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while sum(len(run.history) for run in list(server.runs.values())) < 4:  # the curves are there, the files are not
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    server.refuse = lambda asked: None
    assert not list(world.runs.glob(f"*/{SENT}"))
    assert (said := sync(world)).returncode == 0 and said.stdout.count(": sent") == 2, said
    whole(server, world)


def test_runs_that_the_server_refuses_are_named(untracked, server):
    server.refuse = lambda asked: 403 if asked == "UpsertBucket" else None
    said = sync(untracked)
    assert said.returncode == 1 and said.stdout.count(": failed: ") == 2, said
    assert "2 of 2 runs could not be sent" in said.stderr and "Traceback" not in said.stderr


def nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_without_a_server_runs_are_logged_offline_within_seconds(world, server, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", nobody_listens())
    code, _, err = world.sweep("-m", "d=2,3", ONLINE, disabled=False)
    assert code == 0 and err.count("warning: ") == 1 and "runs are logged offline" in err, err
    assert (
        f"python -m sweep.sync {world.records()[0]['labels']['sweep']} " in err
        and "wandb:" not in err
        and "Traceback" not in err
    )
    assert len(list(world.runs.glob("*/wandb/offline-run-*/*.wandb"))) == 2
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert sync(world).returncode == 0
    whole(server, world)


@pytest.mark.parametrize("why, said", [
    ("nothing", "None"), ("nobody listens", "no answer within"), ("no key", "nobody is logged in"),
    ("wrong key", "not now"), ("it fails", "no answer within"), ("slow", "no answer within"),
])  # fmt: skip
def test_why_there_is_no_session(world, server, monkeypatch, why, said):
    if why == "nobody listens":
        monkeypatch.setenv("WANDB_BASE_URL", nobody_listens())
    elif why == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    elif why == "slow":
        server.delay = 30.0
    elif why != "nothing":
        server.refuse = lambda asked: 401 if why == "wrong key" else 500
    code = "import time\nfrom sweep.tracking.outage import unreachable\nt = time.time()\nprint(unreachable(), time.time() - t)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    reason, seconds = done.stdout.rsplit(maxsplit=1)
    assert said in reason and float(seconds) < 20, done


def test_a_killed_run_that_goes_on_is_one_whole_run(world, server):
    process = world.start(ONLINE, "train.checkpoint_every=50", "train.steps=100", disabled=False,
                          happens="sweep.train.state:_State.save 1 kill")  # fmt: skip
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert world.sweep(ONLINE, "train.checkpoint_every=50", disabled=False)[0] == 0
    whole(server, world)


def test_one_more_measurement_reaches_the_server(world, server):
    assert world.sweep(ONLINE, disabled=False)[0] == 0
    assert world.sweep(ONLINE, "eval.inference=[encoder,omp]", disabled=False)[0] == 0
    whole(server, world)
    (run,) = server.runs.values()
    (record,) = world.records()
    assert run.summary["eval/omp/ce_recovered"] == record["inference"]["omp"]["metrics"]["ce_recovered"]


def test_a_slow_server_costs_no_result(world, server):
    server.delay = 1.5
    code, _, err = world.sweep(ONLINE, disabled=False)
    assert code == 0, err
    server.delay = 0
    assert sync(world, "all").returncode == 0
    whole(server, world)


def test_a_server_that_goes_away_takes_nothing_along(untracked, server, monkeypatch):
    """The end of a run waits for what is not sent yet as long as it may and no longer; the rest can be sent later."""
    world = untracked
    monkeypatch.setattr("sweep.tracking.wandb_tracker._FINISH", 3.0)
    record = world.records()[0]
    folder = world.runs / record["run_id"]
    tracker = WandbTracker(folder, "online", TrackerConfig("online", "p"), record)
    server.refuse = lambda asked: 503
    tracker.summary(record)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        tracker.finish(False)
    assert time.monotonic() - started < 15 and not (folder / SENT).exists()
    server.refuse = lambda asked: None
    assert sync(world, "all", "--project", "p", "--entity", ENTITY).returncode == 0
    whole(server, world)
