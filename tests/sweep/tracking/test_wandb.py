"""Tracking with W&B's own client and real processes, against a Weights & Biases server on this machine."""

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
from sweep.tracking.wandb_tracker import TrackerConfig, WandbTracker, _cut
from tests.sweep.tracking.wandb_server import ENTITY, wandb_server
from tests.sweep.world import ROOT, World

ONLINE = "tracker.mode=online"


@pytest.fixture
def server():
    with wandb_server() as server:
        yield server


@pytest.fixture
def world(tmp_path, model_folders, text_file, server, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # keeps this machine's credentials and caches out of the test
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return World(tmp_path, model_folders["gpt_neox"], text_file)


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory, model_folders, text_file):
    """The run store of a sweep of two runs that were not tracked."""
    world = World(tmp_path_factory.mktemp("finished"), model_folders["gpt_neox"], text_file)
    assert world.sweep("-m", "d=2,3")[0] == 0
    return world.runs


@pytest.fixture
def untracked(world, finished_runs):
    """`world` with a copy of that run store."""
    shutil.copytree(finished_runs, world.runs)
    return world


def sync(world, *arguments):
    command = [sys.executable, "-m", "sweep.sync", *arguments, "--runs", str(world.runs)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


# Names in the README's table that these runs do not log under a prefix: measured only on request, or without a prefix.
NOT_ALWAYS_LOGGED = {"novelty", "cosine", "status", "run_id"}
# Names that are logged and that the README's table leaves out.
NOT_IN_THE_README = {"value_bits", "source", "train_tokens_per_second"}
NOT_IN_THE_README |= {"near_dead_rate", "dead_fraction", "tokens", "contexts"}


def names_in_the_readme(row):
    """Return the names in the row of the README's table that begins with `row`."""
    lines = (ROOT / "sweep/tracking/README.md").read_text().splitlines()
    (line,) = (line for line in lines if re.match(rf"\| {re.escape(row)}", line))
    names = re.findall(r"`([^`]+)`", line.split("|")[2])
    return {name.split("/")[-1] if "/..." not in name else name.split("/")[0] for name in names}


def check_names_against_the_readme(run):
    config = {*LABELS, *AXES, *SIZES, "settings", "spec", "versions"}
    assert names_in_the_readme("config") == config == set(run.config) - {"_wandb"}
    assert {STEP, *(f"train/{name}" for name in names_in_the_readme("curves"))} == set(CURVES)
    assert names_in_the_readme("files") == {RECORD} <= set(run.files)
    for part in ("storage", "metrics", "timings", "latents"):
        prefix = PREFIXES[part]
        logged = {name.removeprefix(prefix).split("/")[0] for name in run.summary if name.startswith(prefix)}
        listed = names_in_the_readme(f"`{prefix}...`")
        assert logged - {"encoder"} <= listed | NOT_IN_THE_README and listed - logged <= NOT_ALWAYS_LOGGED, part


def check_everything_is_on_the_server(server, world):
    """Assert that the server has every run as the run store has it, and each report once."""
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


def test_an_online_run_arrives_whole_on_the_server(world, server):
    code, _, err = world.sweep(ONLINE, "save_artifact=true", disabled=False)
    assert code == 0 and "warning" not in err and "wandb:" not in err, err
    check_everything_is_on_the_server(server, world)
    (record,) = world.records()
    artifact = server.artifacts[f"sae-{record['run_id']}"]
    assert artifact.committed and artifact.type == "sae"
    weights = (world.runs / record["run_id"] / "sae.safetensors").read_bytes()
    assert artifact.files["sae.safetensors"] == weights
    assert "1 in Weights & Biases already" in sync(world, "all").stdout
    (run,) = server.runs.values()
    check_names_against_the_readme(run)


def test_offline_sweeps_are_sent_by_one_command_and_only_once(untracked, server):
    world = untracked
    assert world.sweep("-m", "d=5", disabled=False)[0] == 0  # another sweep, logged offline
    assert list(world.runs.glob("*/wandb/offline-run-*")) and not server.runs
    planned = sync(world, "--dry-run")
    place = ": would go to your own account, project expander-sae\n"
    assert planned.returncode == 0 and planned.stdout.count(place) == 1 and not server.runs
    first = min(os.listdir(world.runs / "launches"))
    assert (done := sync(world, first)).returncode == 0 and done.stdout.count(": sent") == 2, done
    assert len(server.runs) == 2
    assert sync(world, "all").stdout.count(": sent") == 1
    check_everything_is_on_the_server(server, world)
    before = {name: run.opened for name, run in server.runs.items()}
    assert "3 in Weights & Biases already" in sync(world, "all").stdout
    assert before == {name: run.opened for name, run in server.runs.items()}
    assert sync(world, "all", "--again").returncode == 0  # then only the server tells what it has already
    check_everything_is_on_the_server(server, world)


def test_an_interrupted_upload_is_completed_without_duplicates(untracked, server):
    world = untracked
    server.refuse = lambda asked: 500 if RECORD in asked or "CreateRunFiles" in asked else None
    command = [sys.executable, "-m", "sweep.sync", "--runs", str(world.runs)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)
    deadline = time.monotonic() + 60
    while sum(len(run.history) for run in list(server.runs.values())) < 4:  # the curves are there, the files are not
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    server.refuse = lambda asked: None
    assert not list(world.runs.glob(f"*/{SENT}"))
    assert (done := sync(world)).returncode == 0 and done.stdout.count(": sent") == 2, done
    check_everything_is_on_the_server(server, world)


def test_runs_that_the_server_refuses_are_named(untracked, server):
    server.refuse = lambda asked: 403 if asked == "UpsertBucket" else None
    done = sync(untracked)
    assert done.returncode == 1 and done.stdout.count(": failed: ") == 2, done
    assert "2 of 2 runs could not be sent" in done.stderr and "Traceback" not in done.stderr


def address_without_a_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_without_a_server_runs_are_logged_offline_within_seconds(world, server, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", address_without_a_server())
    code, _, err = world.sweep("-m", "d=2,3", ONLINE, disabled=False)
    assert code == 0 and err.count("warning: ") == 1 and "runs are logged offline" in err, err
    assert f"python -m sweep.sync {world.records()[0]['labels']['sweep']} " in err
    assert "wandb:" not in err and "Traceback" not in err
    assert len(list(world.runs.glob("*/wandb/offline-run-*/*.wandb"))) == 2
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    assert sync(world).returncode == 0
    check_everything_is_on_the_server(server, world)


# Prints what `unreachable` returns and the seconds that it took.
ASK = """
import time
from sweep.tracking.outage import unreachable
started = time.time()
print(unreachable(), time.time() - started)
"""


@pytest.mark.parametrize(
    "trouble, reason",
    [
        ("none", "None"),
        ("nobody listens", "no answer within"),
        ("no key", "nobody is logged in"),
        ("wrong key", "not now"),
        ("the server fails", "no answer within"),
        ("the server is slow", "no answer within"),
    ],
)
def test_the_reason_why_no_session_can_begin_is_given_within_seconds(world, server, monkeypatch, trouble, reason):
    if trouble == "nobody listens":
        monkeypatch.setenv("WANDB_BASE_URL", address_without_a_server())
    elif trouble == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    elif trouble == "the server is slow":
        server.delay = 30.0
    elif trouble != "none":
        server.refuse = lambda asked: 401 if trouble == "wrong key" else 500
    done = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True, timeout=60)
    answer, seconds = done.stdout.rsplit(maxsplit=1)
    assert reason in answer and float(seconds) < 20, done


def test_a_killed_run_that_goes_on_is_one_whole_run_on_the_server(world, server):
    killed = "sweep.train.state:TrainingState.save 1 kill"
    process = world.start(ONLINE, "train.checkpoint_every=50", "train.steps=100", disabled=False, happens=killed)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert world.sweep(ONLINE, "train.checkpoint_every=50", disabled=False)[0] == 0
    check_everything_is_on_the_server(server, world)


def test_a_measurement_added_later_reaches_the_server(world, server):
    assert world.sweep(ONLINE, disabled=False)[0] == 0
    assert world.sweep(ONLINE, "eval.inference=[encoder,omp]", disabled=False)[0] == 0
    check_everything_is_on_the_server(server, world)
    (run,) = server.runs.values()
    (record,) = world.records()
    assert run.summary["eval/omp/ce_recovered"] == record["inference"]["omp"]["metrics"]["ce_recovered"]


def test_no_result_is_lost_with_a_slow_server(world, server):
    server.delay = 1.5
    code, _, err = world.sweep(ONLINE, disabled=False)
    assert code == 0, err
    server.delay = 0
    assert sync(world, "all").returncode == 0
    check_everything_is_on_the_server(server, world)


def test_no_result_is_lost_with_a_server_that_stops_answering(untracked, server, monkeypatch):
    """At its end a run waits for what is not sent yet, for a limited time; the rest can be sent later."""
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
    check_everything_is_on_the_server(server, world)


def test_labels_longer_than_wandb_takes_are_cut_and_stay_distinct(world, model_folders):
    longest = "m" * 90
    folder = world.folder / longest
    shutil.copytree(model_folders["gpt_neox"], folder)
    code, _, err = world.sweep(
        f"model.path={folder}", f"tracker.tags=[{'t' * 65},{'t' * 66},'']", "tracker.mode=offline", disabled=False
    )
    assert code == 0 and "tracking stopped" not in err, err
    (record,) = world.records()
    assert record["labels"]["model"] == longest and list(world.runs.glob("*/wandb/offline-run-*/*.wandb"))
    cut = [_cut("t" * length, 64) for length in range(60, 80)]
    assert len(set(cut)) == 20 and max(map(len, cut)) == 64 and cut[:5] == ["t" * length for length in range(60, 65)]
