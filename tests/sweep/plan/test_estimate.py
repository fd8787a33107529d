"""What is said of a run before it is done, against what it then was. Runs are real, on a small real LM."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from hydra import compose, initialize_config_module

from sae_core.arms import DenseMatchedOwn, DenseTied, DenseWarmTied, ExpanderBalanced, FrozenRandom
from sweep.jobs.build import build
from sweep.plan.estimate import Remaining, basis, estimated, lm_size, pass_seconds, planned_storage
from sweep.plan.past import cell_in, past, setup_in
from sweep.plan.steps import Cell, Known, cell_of, probed, stand_in, step_of
from sweep.plan.workload import codes_work, step_work
from sweep.run.loaded import _lm
from sweep.run.once import carry_out
from sweep.store.records import COMPLETE
from sweep.train.loop import train_step
from tests.conftest import ARCHITECTURES, random_model
from tests.sweep.world import World

ARMS = {
    "expander": [], "dense_warmtied": [], "frozen_random": [], "pca": [], "pruned_retuned": [], "dynamic_quantised": [],
    "mp_refit": ["sae=expander", "sae.encoder=mp_refit"],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory, model_folders, text_file):
    """A function that composes jobs with folders of their own."""
    folder = tmp_path_factory.mktemp("estimate")
    common = [*World(folder, model_folders["gpt_neox"], text_file).common, "tracker.mode=disabled"]

    def make(*overrides):
        with initialize_config_module("conf", version_base="1.3"):
            return build(compose("config", overrides=[*common, *overrides]), "test")

    return make


@pytest.fixture(scope="module")
def done(made):
    """(job, record) of a run of each of several arms."""
    jobs = {name: made(*(overrides or [f"sae={name}"])) for name, overrides in ARMS.items()}
    before = torch.get_num_threads()
    found = {name: (job, carry_out(job)) for name, job in jobs.items()}
    torch.set_num_threads(before)
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_storage_is_what_the_record_then_says(done, arm):
    job, record = done[arm]
    assert record["status"] == COMPLETE and planned_storage(job)._asdict() == record["storage"]


@pytest.mark.parametrize("arm", ARMS)
def test_a_record_is_recognised_as_the_cell_it_was(done, arm):
    job, record = done[arm]
    assert cell_in(record) == cell_of(job.spec.arm.layout(job.info.d_model), job.sizes.k, 32)


def test_times_of_finished_runs_are_their_own(done):
    again = {
        name: dataclasses.replace(job, spec=dataclasses.replace(job.spec, seed=5)) for name, (job, _) in done.items()
    }
    wanted = {name: Remaining(job, None) for name, job in again.items()}
    threads = setup_in(done["expander"][1]).threads
    known = basis(list(wanted.values()), threads, budget=0)
    for name, (_, record) in done.items():
        found = estimated(wanted[name], known)
        assert abs(found.training - record["training"]["seconds"]) < 0.6 + 0.7 * record["training"]["seconds"], name
        assert found.evaluation == pytest.approx(record["timings"]["evaluation"], rel=1.0), name
        assert "record" in found.origin, name
    others = basis(list(wanted.values()), threads + 1, budget=0)  # what ran with other threads says nothing
    assert estimated(wanted["expander"], others).origin in ("guessed", "scaled") and not others.past.fits.keys() & {
        key for key in known.past.fits if key[0].threads == threads + 1
    }


def test_records_and_lms_are_left_alone(done, made):
    folder = done["expander"][0].runs_dir.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    loaded = _lm.cache_info()
    jobs = [made("sae=dense_tied", "n=80", "layer=0"), made("sae=pruned_retuned", "n=80")]
    known = basis([Remaining(job, None) for job in jobs], 1, budget=1)
    assert all(estimated(Remaining(job, None), known).seconds > 0 for job in jobs)
    assert pass_seconds(jobs[0], [0, 2], known) > pass_seconds(jobs[0], [0], known) > 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before and _lm.cache_info() == loaded


def test_a_further_reading_costs_less_than_the_run_and_more_than_nothing(done, made):
    job = made("eval.inference=[omp,refit]")
    known = basis([Remaining(job, None), Remaining(job, ["omp"])], 1, budget=0)
    whole, one = estimated(Remaining(job, None), known), estimated(Remaining(job, ["omp"]), known)
    assert one.training == 0 and 0 < one.evaluation < whole.evaluation < whole.seconds


def cell(arm, d_in=64, k=4, batch=32):
    return cell_of(arm.layout(d_in), k, batch)


def test_a_probe_times_a_step_of_every_kind_and_stays_in_its_budget():
    arms = [FrozenRandom(256, 5, 4), DenseTied(256, 4), DenseWarmTied(256, 4), ExpanderBalanced(256, 64, 4, "mp_refit")]
    cells = {cell(arm): 1000.0 for arm in arms}
    found = probed(cells, {}, "cpu", "auto", 1, budget=60)
    assert found.keys() == cells.keys() and {known.origin for known in found.values()} == {"probed"}
    assert all(1e-5 < known.seconds < 1 for known in found.values())
    assert probed(cells, {}, "cpu", "auto", 1, budget=0) == {}
    started = time.perf_counter()
    huge = {cell(DenseTied(1 << 24, 4), 1 << 14): 1e6}  # 4 TiB
    assert probed(huge, {}, "cpu", "auto", 1, budget=60) == {} and time.perf_counter() - started < 1


@pytest.mark.parametrize("arm", [FrozenRandom(96, 5, 4), DenseMatchedOwn(960, 5, 4), ExpanderBalanced(96, 7, 4)])
def test_a_stand_in_computes_as_the_arm_s_own_sae_does(arm):
    own, other = arm.build(24, 0), stand_in(cell(arm, 24))
    assert other.dictionary.values.shape == own.dictionary.values.shape and type(other.encoder) is type(own.encoder)
    train_step(other, torch.optim.Adam(other.parameters()), torch.randn(32, 24), 1e-3, 1.0)
    moved = {name for name, p in other.named_parameters() if p.grad is not None}
    assert moved == {name for name, _ in own.named_parameters()}


def test_what_is_not_known_is_scaled_by_its_work_from_the_nearest_of_its_kind():
    near, far, other = (cell(arm) for arm in (DenseTied(512, 4), DenseTied(64, 4), FrozenRandom(500, 5, 4)))
    wanted = cell(DenseTied(640, 4))
    known = {near: Known(2.0, "probed"), far: Known(9.0, "probed"), other: Known(9.0, "probed")}
    found = step_of(wanted, known)
    assert found.origin == "scaled" and found.seconds == pytest.approx(2 * wanted.work / near.work)
    assert step_of(near, known)[:2] == (2.0, "probed")
    assert step_of(wanted, {other: Known(9.0, "probed")}).doubt > found.doubt
    assert step_of(wanted, {}).origin == "guessed"


def test_work_grows_with_what_it_grows_with():
    def work(arm, **how):
        return step_work(*cell(arm, **how))

    assert work(DenseTied(512, 4)) < work(DenseTied(1024, 4)) < work(DenseWarmTied(1024, 4))
    assert work(DenseTied(512, 4)) < min(work(DenseTied(512, 4), batch=64), work(DenseTied(512, 4), d_in=128))
    layout = ExpanderBalanced(512, 5, 8).layout(64)
    topk, refit, mp, omp = (codes_work(layout, 8, name) for name in ("topk", "refit", "mp_refit", "omp"))
    assert topk < refit < mp < omp
    assert all(codes_work(layout, 8, name) > 0 for name in ("encoder", "mp_magnitude", "niht", "cosamp", "gomp4"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_lm_s_size_is_read_without_loading_it(model_folders, architecture):
    model = random_model(architecture)
    size = lm_size(model_folders[architecture], 32)
    counted = sum(parameter.numel() for parameter in model.parameters())  # a tied embedding once
    assert size.parameters == counted and size.vocabulary == 400
    embedding = model.get_input_embeddings().weight.numel()
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert size.blocks == counted - embedding * (1 if tied else 2)


def test_a_damaged_or_older_store_is_no_obstacle(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "record.json").write_text('{"schema": 1, "status": "complete", "timings": {}}')
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "record.json").write_text("{")
    assert past([tmp_path, tmp_path / "none"]) == ({}, {}, {}, [])


def test_storage_of_a_thousand_runs_takes_less_than_a_second(made):
    job = made()
    started = time.perf_counter()
    for n in range(1000, 2000):
        planned_storage(
            dataclasses.replace(job, spec=dataclasses.replace(job.spec, arm=ExpanderBalanced(n << 6, 30, 32)))
        )
    assert time.perf_counter() - started < 1


def test_cells_of_supports_of_all_kinds_are_alike():
    layout = ExpanderBalanced(512, 5, 8).layout(64)
    assert cell_of(layout._replace(support="indices"), 8, 4) == cell_of(layout, 8, 4) == Cell(layout, 8, 4)
