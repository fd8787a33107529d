"""Estimates of a run before it is done, against what it then took. Runs are real, on a small real LM."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from sae_core.arms import DenseMatchedOwn, DenseTied, DenseWarmTied, Expander, ExpanderBalanced, FrozenRandom
from sweep.jobs.build import build
from sweep.plan.estimate import _FIXED, Remaining, estimate_run, gather_basis, pass_seconds
from sweep.plan.footprint import lm_size, planned_storage
from sweep.plan.past import read_past, setup_in, shape_in
from sweep.plan.steps import MeasuredStep, StepShape, estimated_step, shape_of, stand_in, with_probes
from sweep.plan.workload import codes_work, step_work
from sweep.run.loaded import _lm
from sweep.run.once import carry_out
from sweep.store.records import COMPLETE, iterate_records
from sweep.train.loop import train_step
from tests.conftest import ARCHITECTURES, random_model
from tests.sweep.world import World, composed

OWN_NAMES = ("expander", "dense_warmtied", "frozen_random", "pca", "pruned_retuned", "dynamic_quantised")
ARMS = {name: [f"sae={name}"] for name in OWN_NAMES} | {
    "mp_refit": ["sae=expander", "sae.encoder=mp_refit"],
    "reflections": ["sae=expander", "sae.basis=reflections3_trained", "sae.always_on=1"],
    "as large as reflections": ["sae=dense_matched", "sae.basis=reflections3", "k=1", "d=5"],
    "low rank": ["sae=dense_low_rank", "sae.encoder=mp_refit"],
    "itda": ["sae=itda", "sae.tokens=500"],
    "rounded in training": ["sae=dynamic_few_bits", "sae.bits=1.58", "sae.of.basis=reflections3"],
    "of pieces": ["sae=dense_tied_pq"],
    "on paths": ["sae=dense_tied_tcq"],
    "encoder of few bits": ["sae=dense_warmtied_few_bits", "sae.encoder_bits=4"],
    "rounded in a basis": ["sae=expander_quantised", "sae.of.basis=reflections3"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, model_folders, text_file):
    """Return a function that composes jobs, in a run store that this module's tests share."""
    folder = tmp_path_factory.mktemp("estimate")
    common = [*World(folder, model_folders["gpt_neox"], text_file).common, "tracker.mode=disabled"]

    def make(*overrides):
        return build(composed(*common, *overrides), "test")

    return make


@pytest.fixture(scope="module")
def done(made):
    """Return (job, record) of a finished run of each of `ARMS`, by its name there."""
    jobs = {name: made(*overrides) for name, overrides in ARMS.items()}
    before = torch.get_num_threads()
    found = {name: (job, carry_out(job)) for name, job in jobs.items()}
    torch.set_num_threads(before)
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_planned_storage_is_what_the_record_then_says(done, arm):
    job, record = done[arm]
    assert record["status"] == COMPLETE and planned_storage(job)._asdict() == record["storage"]


@pytest.mark.parametrize("arm", ARMS)
def test_a_record_s_shape_is_that_of_the_job_it_came_from(done, arm):
    job, record = done[arm]
    assert shape_in(record) == shape_of(job.spec.arm.layout(job.info.d_model), job.sizes.k, 32)


def test_a_run_is_estimated_to_take_what_finished_runs_of_its_shape_took(done):
    """The estimate is a median: it lies between their extremes, and is the very time where only one run is alike."""
    remaining = another_seed(done)
    basis = gather_basis(list(remaining.values()), setup_in(done["expander"][1]).threads, budget=0)
    records = [record for _, record in iterate_records(done["expander"][0].runs_dir)]
    alone = 0
    for name, (_, record) in done.items():
        alike = [other for other in records if shape_in(other) == shape_in(record)]
        by_gradient = record["training"]["steps"] > 0
        found = estimate_run(remaining[name], basis)
        trainings = [r["training"]["seconds"] for r in alike if (r["training"]["steps"] > 0) == by_gradient]
        assert between(min(trainings), found.training - by_gradient * _FIXED, max(trainings)), name
        evaluations = [other["timings"]["evaluation"] for other in alike]
        assert between(min(evaluations), found.evaluation, max(evaluations)), name
        assert "record" in found.origin, name
        alone += len(alike) == 1
    assert alone >= 2  # otherwise all estimates are only bounded


def another_seed(done):
    """Return the same runs with a seed that no finished run has, still to be done."""
    return {
        name: Remaining(dataclasses.replace(job, spec=dataclasses.replace(job.spec, seed=5)), None)
        for name, (job, _) in done.items()
    }


def between(least, found, most):
    return least * (1 - 1e-6) <= found <= most * (1 + 1e-6)


def test_runs_with_another_number_of_threads_say_nothing(done):
    threads = setup_in(done["expander"][1]).threads
    others = gather_basis(list(another_seed(done).values()), threads + 1, budget=0)
    for name, remaining in another_seed(done).items():
        assert estimate_run(remaining, others).origin in ("guessed", "scaled"), name


def test_an_estimate_writes_no_file_and_loads_no_lm(done, made):
    folder = done["expander"][0].runs_dir.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    loaded = _lm.cache_info()
    jobs = [made("sae=dense_tied", "n=80", "layer=0"), made("sae=pruned_retuned", "n=80")]
    basis = gather_basis([Remaining(job, None) for job in jobs], 1, budget=1)
    assert all(estimate_run(Remaining(job, None), basis).seconds > 0 for job in jobs)
    assert pass_seconds(jobs[0], [0, 2], basis) > pass_seconds(jobs[0], [0], basis) > 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before and _lm.cache_info() == loaded


def test_a_further_reading_costs_less_than_the_run_and_more_than_nothing(done, made):
    job = made("eval.inference=[omp,refit]")
    basis = gather_basis([Remaining(job, None), Remaining(job, ["omp"])], 1, budget=0)
    whole, one = estimate_run(Remaining(job, None), basis), estimate_run(Remaining(job, ["omp"]), basis)
    assert one.training == 0 and 0 < one.evaluation < whole.evaluation < whole.seconds


def shape(arm, d_in=64, k=4, batch=32):
    return shape_of(arm.layout(d_in), k, batch)


def test_a_probe_times_a_step_of_every_kind_and_stays_in_its_budget():
    arms = [FrozenRandom(256, 5, 4), DenseTied(256, 4), DenseWarmTied(256, 4), ExpanderBalanced(256, 64, 4, "mp_refit")]
    shapes = {shape(arm): 1000.0 for arm in arms}
    found = with_probes(shapes, {}, "cpu", "auto", 1, budget=60)
    assert found.keys() == shapes.keys() and {measured.origin for measured in found.values()} == {"probed"}
    assert all(1e-5 < measured.seconds < 1 for measured in found.values())
    assert with_probes(shapes, {}, "cpu", "auto", 1, budget=0) == {}
    started = time.perf_counter()
    huge = {shape(DenseTied(1 << 24, 4), 1 << 14): 1e6}  # 4 TiB
    assert with_probes(huge, {}, "cpu", "auto", 1, budget=60) == {} and time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "arm",
    [
        FrozenRandom(96, 5, 4),
        DenseMatchedOwn(960, 5, 4),
        ExpanderBalanced(96, 7, 4),
        Expander(96, 5, 4, basis="reflections3_trained"),
    ],
)
def test_a_stand_in_computes_as_the_arm_s_own_sae_does(arm):
    own, other = arm.build(24, 0), stand_in(shape(arm, 24))
    assert other.dictionary.values.shape == own.dictionary.values.shape and type(other.encoder) is type(own.encoder)
    train_step(other, torch.optim.Adam(other.parameters()), torch.randn(32, 24), 1e-3, 1.0)
    moved = {name for name, p in other.named_parameters() if p.grad is not None}
    assert moved == {name for name, _ in own.named_parameters()}


def test_a_step_that_was_not_measured_is_scaled_by_work_from_the_nearest_of_its_kind():
    near, far, other = (shape(arm) for arm in (DenseTied(512, 4), DenseTied(64, 4), FrozenRandom(500, 5, 4)))
    wanted = shape(DenseTied(640, 4))
    known = {near: MeasuredStep(2.0, "probed"), far: MeasuredStep(9.0, "probed"), other: MeasuredStep(9.0, "probed")}
    found = estimated_step(wanted, known)
    assert found.origin == "scaled" and found.seconds == pytest.approx(2 * wanted.work / near.work)
    assert estimated_step(near, known)[:2] == (2.0, "probed")
    assert estimated_step(wanted, {other: MeasuredStep(9.0, "probed")}).doubt > found.doubt
    assert estimated_step(wanted, {}).origin == "guessed"


def test_work_grows_with_latents_batch_width_and_pursuit():
    def work(arm, **how):
        return step_work(*shape(arm, **how))

    assert work(DenseTied(512, 4)) < work(DenseTied(1024, 4)) < work(DenseWarmTied(1024, 4))
    assert work(DenseTied(512, 4)) < min(work(DenseTied(512, 4), batch=64), work(DenseTied(512, 4), d_in=128))
    layout = ExpanderBalanced(512, 5, 8).layout(64)
    topk, refit, mp, omp = (codes_work(layout, 8, name) for name in ("topk", "refit", "mp_refit", "omp"))
    assert topk < refit < mp < omp
    floor, nested = (codes_work(layout, 8, name) for name in ("mp_floor20", "nested_floor20"))
    assert mp == floor < nested
    assert all(codes_work(layout, 8, name) > 0 for name in ("encoder", "mp_magnitude", "niht", "cosamp", "gomp4"))
    plain, one, two = (codes_work(layout, 8, name) for name in ("mp", "mp_cg1", "mp_cg2"))
    assert plain < one < two and two - one == pytest.approx(one - plain)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_lm_s_size_is_read_without_loading_it(model_folders, architecture):
    model = random_model(architecture)
    size = lm_size(model_folders[architecture], 32)
    counted = sum(parameter.numel() for parameter in model.parameters())  # a tied embedding once
    assert size.parameters == counted and size.vocabulary == 400
    embedding = model.get_input_embeddings().weight.numel()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert size.blocks == counted - embedding * (1 if tied else 2)


def test_damaged_and_older_records_are_passed_over(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text('{"schema": 1, "status": "complete", "timings": {}}')
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "record.json").write_text("{")
    assert read_past([tmp_path, tmp_path / "none"]) == ({}, {}, {}, [])


def test_storage_of_a_thousand_runs_takes_less_than_a_second(made):
    job = made()
    started = time.perf_counter()
    for n in range(1000, 2000):
        planned_storage(
            dataclasses.replace(job, spec=dataclasses.replace(job.spec, arm=ExpanderBalanced(n << 6, 30, 32)))
        )
    assert time.perf_counter() - started < 1


def test_supports_of_all_kinds_have_one_shape():
    layout = ExpanderBalanced(512, 5, 8).layout(64)
    assert shape_of(layout._replace(support="indices"), 8, 4) == shape_of(layout, 8, 4) == StepShape(layout, 8, 4)
