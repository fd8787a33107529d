"""Every YAML composes and builds; every experiment plans; embedded weights are what their card says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import sweep.launch  # noqa: F401  (registers the resolver)
from sweep.embedded import WEIGHTS
from sweep.jobs.build import _build, build_job

CONF = Path(__file__).parents[3] / "conf"


def files(group):
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def composed(*overrides):
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", overrides=[*overrides])


def job(tmp_path, *overrides):
    return build_job(composed(f"cache_dir={tmp_path}", *overrides), "test")


@pytest.mark.parametrize("arm", files("sae"))
def test_every_arm_builds_by_its_own_name(arm, tmp_path):
    built = job(tmp_path, f"sae={arm}", "d=30")
    bits = f"-{built.spec.arm.bits}bit" if arm.endswith("_quantised") else ""
    assert built.labels["arm"] == built.spec.arm.name == arm.removesuffix("_quantised") + bits


@pytest.mark.parametrize("group", ["model", "corpus", "train", "eval", "tracker"])
def test_every_file_of_a_group_composes_and_fits_its_schema(group):
    from sweep.jobs.build import TrackerConfig, _dataclass
    from sweep.lm.find import ModelConfig

    for name in files(group):
        plain = OmegaConf.to_container(composed(f"{group}={name}"), resolve=True)
        if group == "model":
            assert _dataclass(plain, "model", ModelConfig).name
        elif group == "tracker":
            assert _dataclass(plain, "tracker", TrackerConfig).mode == "offline"
        elif group in ("train", "eval"):
            assert _build(plain[group], group, None) is not None


def test_arms_that_ignore_the_degree_are_one_run(tmp_path):
    assert job(tmp_path, "sae=dense_tied", "d=3").spec.run_id == job(tmp_path, "sae=dense_tied", "d=7").spec.run_id
    assert job(tmp_path, "d=3").spec.run_id != job(tmp_path, "d=7").spec.run_id


def test_a_whole_number_where_a_number_is_meant_is_the_same_run(tmp_path):
    ids = {job(tmp_path, "sae=dynamic", f"sae.drop={drop}", f"train.lr_final={zero}").spec.run_id
           for drop, zero in (("1", "0"), ("1.0", "0.0"))}  # fmt: skip
    assert len(ids) == 1


def test_places_and_helpers_are_not_in_the_run_id(tmp_path):
    plain = job(tmp_path).spec.run_id
    moved = job(tmp_path, "runs_dir=/elsewhere", "threads=1", "tracker.mode=disabled", "layers_together=[1]",
                "backend=torch_gather")  # fmt: skip
    assert moved.spec.run_id == plain


def test_the_main_job_is_twenty_one_runs(tmp_path):
    from itertools import product

    from sweep.plan.plan import make_plan

    cfg = OmegaConf.load(CONF / "experiment" / "frontier.yaml")
    params = {key: str(value).split(",") for key, value in cfg.hydra.sweeper.params.items()}
    cells = [[f"{key}={value}" for key, value in zip(params, values, strict=True)]
             for values in product(*params.values())]  # fmt: skip
    plan = make_plan([(c, composed(f"cache_dir={tmp_path}", f"runs_dir={tmp_path}", *c)) for c in cells], "t")
    arms = [run.job.labels["arm"] for run in plan.runs]
    assert {arm: arms.count(arm) for arm in arms} == {
        "expander": 10, "dense_matched": 7, "dense_tied": 2, "dense_warmtied": 2,
    }  # fmt: skip
    assert len(plan.left_out) == 3 and plan.runs[0].job.layers_together == (1,)


def test_the_embedded_model_is_small_and_has_a_card():
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 16e6
    card = (WEIGHTS / "README.md").read_text()
    assert "bits/byte" in card and "xz -9e" in card


@pytest.mark.slow
def test_the_embedded_model_beats_xz_as_its_card_says():
    from sweep.embedded.measure import measure_held_out
    from sweep.embedded.recipe import split_documents

    held_out = measure_held_out(WEIGHTS, split_documents()[1])
    assert held_out.bits_per_byte < 0.9 * held_out.xz_bits_per_byte
    assert held_out.nats_per_token < 3.0
