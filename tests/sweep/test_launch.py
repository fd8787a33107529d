"""`python -m sweep` as its user runs it: real processes, a small real model on disk, a real run store."""

from __future__ import annotations

import json
import os
import signal
import time
from importlib.util import find_spec

import pytest

from tests.sweep.world import ROOT, World


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path, model_folders["gpt_neox"], text_file)


def test_one_run_from_nothing_then_skipped(world):
    code, out, err = world.sweep(disabled=False)
    assert code == 0, err
    (record,) = world.records()
    assert record["status"] == "complete" and record["axes"] == {"layer": 1, "d": 3, "k": 4, "n": 64, "seed": 0}
    run = world.runs / record["run_id"]
    assert record["storage"]["artifact_bytes"] == (run / "sae.safetensors").stat().st_size
    assert record["storage"]["learned_decoder_values"] == 3 * 64
    assert list(run.glob("wandb/offline-run-*/*.wandb")) and not (run / "checkpoint.pt").exists()
    stamp = (run / "record.json").stat().st_mtime_ns
    code, out, err = world.sweep()
    assert code == 0 and "skipped: done" in out and (run / "record.json").stat().st_mtime_ns == stamp


def test_a_grid_trains_each_spec_once_and_leaves_impossible_cells_out(world):
    code, out, err = world.sweep(
        "-m", "sae=expander,dense_tied,dense_matched", "d=2,3,8", "layer=0,1", "train.steps=20"
    )
    assert code == 0, err
    arms = sorted(record["labels"]["arm"] for record in world.records())
    # dense_matched: n' = 4, 6 and 16 of n = 64, d_in = 32; k = 4 needs more than 8.
    assert arms == ["dense_matched"] * 2 + ["dense_tied"] * 2 + ["expander"] * 6
    assert out.count("left out: 2 cells, the first") == 2 and "cannot be unique" in out
    assert "[10/10]" in err and out.count("complete") == 10
    assert len(list((world.folder / "cache").glob("*/manifest.json"))) == 2


CONF = ROOT / "conf/experiment"
EXPERIMENTS = {str(p.relative_to(CONF).with_suffix("")) for p in CONF.rglob("*.yaml")}
OF_NO_LM = {"meaning/synthetic", "meaning/adaptive"}  # tests/sweep/synthetic runs it


@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS - OF_NO_LM))
def test_every_experiment_runs_at_smoke_size(world, experiment):
    small = ["d=8", "k=4", "layer=1", "seed=0", "train.steps=20"]
    if find_spec("sae_probes") is None and experiment == "meaning/smollm2":
        small.append("eval.probing=[code]")  # its texts come with the package sae-probes
    code, out, err = world.sweep(f"experiment={experiment}", *small)
    assert code == 0, err
    assert {record["status"] for record in world.records()} == {"complete"} and "complete" in out


def test_a_failed_run_is_recorded_the_sweep_goes_on_and_the_run_is_retried(world):
    code, out, err = world.sweep("-m", "train.lr=1e-3,1e30", "train.grad_clip=1e30", "train.lr_final=0")
    assert code == 1
    by_status = {record["status"]: record for record in world.records()}
    assert set(by_status) == {"complete", "failed"}
    assert "step" in by_status["failed"]["error"] and "train.lr" in by_status["failed"]["error"]
    assert "failed" in out and not list(world.runs.glob("*/checkpoint.pt"))
    finished = by_status["failed"]["finished"], by_status["complete"]["finished"]
    time.sleep(1.1)
    code, out, err = world.sweep("-m", "train.lr=1e-3,1e30", "train.grad_clip=1e30", "train.lr_final=0")
    again = {record["status"]: record for record in world.records()}
    assert code == 1 and "skipped: done" in out
    assert again["failed"]["finished"] != finished[0] and again["complete"]["finished"] == finished[1]


def test_killed_in_training_goes_on_and_ends_as_if_undisturbed(world, tmp_path):
    long = ["train.steps=6000", "train.checkpoint_every=500"]
    process = world.start(*long)
    world.until("runs/*/checkpoint.pt", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert world.records() == []
    code, _, err = world.sweep(*long)
    assert code == 0, err
    (resumed,) = world.records()
    undisturbed = World(tmp_path / "other", None, None)
    undisturbed.common = [a.replace(str(world.runs), str(undisturbed.runs)) for a in world.common]
    code, _, err = undisturbed.sweep(*long)
    assert code == 0, err
    (straight,) = undisturbed.records()
    assert resumed["run_id"] == straight["run_id"] and resumed["metrics"] == straight["metrics"]
    weights = [w.runs / resumed["run_id"] / "sae.safetensors" for w in (world, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_interrupt_is_one_line_and_the_next_launch_goes_on(world):
    long = ["-m", "d=2,3", "train.steps=4000", "train.checkpoint_every=500"]
    process = world.start(*long)
    world.until("runs/*/record.json", process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert "interrupted: what is finished stays" in err
    assert len(world.records()) == 1
    code, out, err = world.sweep(*long)
    assert code == 0 and "skipped: done" in out and len(world.records()) == 2


@pytest.mark.parametrize(
    "argument, message",
    [
        ("d=0", "d=0 must be"),
        ("d=33", r"d=33 must be in 1..32"),
        ("k=65", "k=65 must be in 1..64"),
        ("layer=99", "layer=99 must be in 0..2"),
        ("model.path=/nowhere", "model.path=/nowhere"),
        ("corpus.path=/nowhere", "corpus.path=/nowhere"),
        ("corpus.train_tokens=10000000", "corpus.train_tokens=10000000"),
        ("n=many", "n=many"),
        ("tree=3", "unknown key tree"),
        ("+tree=3", "unknown key tree"),
        ("+train.tree=3", "unknown key train.tree"),
        ("d=3,4", "add -m"),
        ("train.lr=-1", "train.lr=-1"),
        ("train.lr=abc", "train.lr=abc must be a number"),
        ("model.batch_size=abc", "model.batch_size=abc must be a whole"),
        ("corpus.path=5", "corpus.path=5 must be text"),
        ("cache_dir=null", "cache_dir=None must be text"),
        ("seed=99999999999999999999", "seed="),
        ("device=foo", "device=foo is not there"),
        ("backend=fast", "backend=fast is unknown"),
        ("save_artifact=abc", "save_artifact=abc must be true or false"),
        ("layers_together=abc", "layers_together=abc"),
    ],
)
def test_bad_input_is_one_line_at_once(world, argument, message):
    code, out, err = world.sweep(argument)
    assert code == 1 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert world.records() == []


def test_an_empty_text_and_a_damaged_shard(world, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.touch()
    code, _, err = world.sweep(f"corpus.path={empty}")
    assert code == 1 and "0 distinct document" in err
    assert world.sweep()[0] == 0
    (shard,) = (world.folder / "cache").glob("*/shard-*.bin")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    assert world.sweep("d=2")[0] == 0
    (log,) = (run for run in world.runs.glob("*/run.log") if "does not match its checksum" in run.read_text())
    assert "made again" in log.read_text()


def test_a_tracker_that_breaks_loses_nothing(world):
    (world.folder / "w.py").write_text("raise RuntimeError('no wandb today')")
    os.rename(world.folder / "w.py", world.folder / "wandb.py")
    environment = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(world.folder)
    try:
        code, _, err = world.sweep(disabled=False)
    finally:
        os.environ.pop("PYTHONPATH") if environment is None else os.environ.update(PYTHONPATH=environment)
    assert code == 0 and "tracking stopped" in err and len(world.records()) == 1


def test_two_launches_of_the_same_run_train_it_once(world):
    processes = [world.start("train.steps=3000") for _ in range(2)]
    outputs = [p.communicate(timeout=240) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    (record,) = world.records()
    log = (world.runs / record["run_id"] / "run.log").read_text()
    assert log.count("training expander") == 1


def test_the_record_holds_what_the_saved_sae_says(world):
    assert world.sweep()[0] == 0
    (record,) = world.records()
    config = json.loads((world.runs / record["run_id"] / "cfg.json").read_text())
    assert config["about"]["spec"] == record["spec"] and config["degree"] == record["sizes"]["degree"]
