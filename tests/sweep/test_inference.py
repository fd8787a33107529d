"""Further ways to read codes, asked for in a launch, or added to a finished run without training again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.store.records import read_record, unmeasured_inference

ROOT = Path(__file__).parents[2]
TEXT = ["model=local", "corpus=text", "corpus.train_tokens=800", "model.window=24", "eval.windows=10"]
CELL = ["layer=1", "n=2m", "k=4", "d=3"]
SMALL = [*TEXT, *CELL, "train.steps=60", "train.batch_size=32", "threads=1", "tracker.mode=disabled"]


def call(module, *arguments, code=0):
    """Run `python -m module` as a user does; it must end with the exit code `code`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "140"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def launched(tmp_path_factory, model_folders, text_file):
    """Launch one run, measured by its encoder and by refit; give the arguments, the runs folder and the run's id."""
    folder = tmp_path_factory.mktemp("inference")
    given = [f"model.path={model_folders['gpt_neox']}", f"corpus.path={text_file}"]
    arguments = [*SMALL, *given, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]
    call("sweep", *arguments, "eval.inference=[refit]")
    run_id = next((folder / "runs").glob("*/record.json")).parent.name
    return arguments, folder / "runs", run_id


def test_each_reading_is_recorded_under_its_own_name_with_its_cost(launched):
    _, runs, run_id = launched
    record = read_record(runs, run_id)
    own, refit = record["inference"]["encoder"], record["inference"]["refit"]
    assert {key: record["metrics"][key] for key in own["metrics"]} == own["metrics"]
    assert refit["metrics"]["fvu"] < own["metrics"]["fvu"] and refit["metrics"]["ce_zero"] == own["metrics"]["ce_zero"]
    assert own["cost"]["multiply_adds"] == 64 * 3 < refit["cost"]["multiply_adds"]
    assert record["theory"]["coverage"] == {"value": 1.0, "kind": "exact"}
    assert own["cost"]["tokens_per_second"] > 0 and own["cost"]["threads"] == 1


def test_a_finished_run_is_measured_further_without_training(launched):
    _, runs, run_id = launched
    before = read_record(runs, run_id)
    weights = (runs / run_id / "sae.safetensors").stat().st_mtime_ns
    done = call("sweep.evaluate", f"run={run_id}", "eval.inference=[omp,block2]", f"runs_dir={runs}")
    assert "by omp" in done.stdout and "by gomp2" in done.stdout
    after = read_record(runs, run_id)
    assert (runs / run_id / "sae.safetensors").stat().st_mtime_ns == weights
    assert set(after["inference"]) == {"encoder", "refit", "omp", "gomp2"}
    for key in before:
        if key != "inference":
            assert after[key] == before[key]
    assert {name: after["inference"][name] for name in before["inference"]} == before["inference"]
    again = call("sweep.evaluate", "run=all", "eval.inference=[omp]", f"runs_dir={runs}")
    assert "skipped: done" in again.stdout and read_record(runs, run_id) == after


def test_the_same_launch_with_another_inference_only_measures(launched):
    arguments, runs, run_id = launched
    finished = read_record(runs, run_id)["finished"]
    call("sweep", *arguments, "eval.inference=[mp_refit]")
    record = read_record(runs, run_id)
    assert "mp_refit" in record["inference"] and record["finished"] == finished
    assert [folder.name for folder in runs.glob("*/record.json")] == ["record.json"]


def test_a_measurement_that_fails_is_said_and_the_run_stays(launched):
    _, runs, run_id = launched
    record = read_record(runs, run_id)
    record["inference"]["omp"] = {"error": "out of luck"}
    (runs / run_id / "record.json").write_text(json.dumps(record))
    assert unmeasured_inference(record, ["encoder", "omp", "niht"]) == ["omp", "niht"]
    call("sweep.evaluate", f"run={run_id}", "eval.inference=[omp]", f"runs_dir={runs}")
    assert "metrics" in read_record(runs, run_id)["inference"]["omp"]


@pytest.mark.parametrize(
    "change, said",
    [
        (["run=nonesuch"], "run=nonesuch: no finished run"),
        ([], "run= must name a run"),
        (["run={id}", "eval.inference=[magic]"], "magic is no inference: choose from encoder, topk, refit"),
        (["run={id}", "k=5"], "k is settled for a finished run; eval, runs_dir"),
        (["run={id}", "eval.windows=3"], "eval.windows differ"),
        (["run={id}", "corpus.path=nowhere.txt"], "nowhere.txt"),
        (["run={id}", "nonsense"], "nonsense is not KEY=VALUE"),
        (["run={id}", "eval.inference=[omp"], "eval.inference=[omp: its value cannot be read"),
        (["run=../{id}"], "no finished run of that id"),
        (["run=0123456701234567"], "run=0123456701234567: no finished run"),  # YAML would make an octal number of it
    ],
)
def test_mistakes_end_with_one_line(launched, change, said):
    _, runs, run_id = launched
    arguments = [word.replace("{id}", run_id) for word in change] + [f"runs_dir={runs}"]
    done = call("sweep.evaluate", *arguments, code=1)
    assert said in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_encoder_or_inference_is_refused_before_anything_is_loaded(launched):
    arguments, _, _ = launched
    done = call("sweep", *arguments, "sae.encoder=mp", code=1)
    assert "sae.encoder=mp does not end in least squares" in done.stderr
    done = call("sweep", *arguments, "eval.inference=[magic]", code=1)
    assert "eval.inference=['magic']: magic is no inference" in done.stderr
