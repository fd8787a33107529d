"""Runs that are measured on the same clean pass of the LM are measured together, with the figures of each alone."""

from __future__ import annotations

import pytest

from sweep.jobs.build import build
from sweep.measures import measures
from sweep.run import examine
from sweep.run.once import carry_out, run_measured_together, same_clean_pass
from sweep.workers.worker import work, write_work
from tests.sweep.world import World, composed


@pytest.fixture
def job_of(tmp_path, model_folders, text_file):
    """Return a function that composes a job in a run store of its own name."""
    common = World(tmp_path, model_folders["llama"], text_file).common

    def make(store, *given):
        return build(composed(*common, "tracker.mode=disabled", f"runs_dir={tmp_path / store}", *given), "test")

    return make


@pytest.fixture
def joined(monkeypatch):
    """Return a list that gets the number of runs of each joint measurement."""
    seen = []

    def counted(clean, requests):
        seen.append(len(requests))
        measures.measure_together(clean, requests)

    monkeypatch.setattr(examine, "measure_together", counted)
    return seen


def figures(record):
    """Return what was measured, without the speeds."""
    return {name: reading["metrics"] for name, reading in record["inference"].items()}


def test_finished_runs_get_further_readings_together(job_of, joined):
    cells = [("d=3",), ("d=5",), ("d=3", "layer=0"), ("d=3", "eval.windows=8")]
    for cell in cells:
        carry_out(job_of("runs", *cell))
        carry_out(job_of("alone", *cell))
    joined.clear()
    jobs = [job_of("runs", *cell, "eval.inference=[omp,refit]") for cell in cells]
    assert [same_clean_pass(jobs[0], job) for job in jobs] == [True, True, False, False]
    together = run_measured_together(jobs[:2])
    assert joined == [2]
    for cell, record in zip(cells[:2], together, strict=True):
        assert figures(record) == figures(carry_out(job_of("alone", *cell, "eval.inference=[omp,refit]")))


def test_runs_that_train_together_are_measured_together(job_of, joined, tmp_path):
    jobs = [job_of("runs", f"d={d}", "eval.inference=[encoder,refit]") for d in (3, 5, 7)]
    write_work(tmp_path / "work.json", "test", 3, [job.settings for job in jobs])
    assert work(tmp_path / "work.json") == {} and joined == [3]
    for job in jobs:
        alone = carry_out(job_of("alone", f"d={job.axes['d']}", "eval.inference=[encoder,refit]"))
        ours = carry_out(job)
        assert figures(ours) == figures(alone) and ours["metrics"]["fvu"] == alone["metrics"]["fvu"]


def test_a_pursuit_that_is_the_sae_s_own_encoder_is_measured_once_under_both_names(job_of, monkeypatch):
    made = []
    monkeypatch.setattr(
        examine, "Reading", lambda sae, name, *rest: made.append(name) or measures.Reading(sae, name, *rest)
    )
    record = carry_out(job_of("runs", "sae.encoder=mp_refit", "eval.inference=[encoder,mp_refit,omp,topk]"))
    assert made == ["encoder", "omp", "topk"]
    assert record["inference"]["mp_refit"] == record["inference"]["encoder"] != record["inference"]["omp"]
    record = carry_out(job_of("runs", "d=5", "eval.inference=[encoder,topk]"))
    assert made[3:] == ["encoder"] and record["inference"]["topk"] == record["inference"]["encoder"]
