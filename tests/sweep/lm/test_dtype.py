"""model.dtype=auto: what this machine multiplies faster, said once and kept."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sweep.jobs.build import _fitting_dtype, build
from sweep.lm import dtype
from sweep.lm.dtype import bfloat16_speedup, fitting_dtype
from sweep.run.once import carry_out
from sweep.workers.start import _settings
from tests.sweep.world import World, composed

CPU = torch.device("cpu")


@pytest.mark.parametrize(("speedup", "found"), [(2.1, "bfloat16"), (1.1, "float32"), (1 / 7, "float32")])
def test_auto_takes_what_is_faster_and_remembers_it(tmp_path, monkeypatch, speedup, found):
    asked = []
    monkeypatch.setattr(dtype, "bfloat16_speedup", lambda width: asked.append(width) or speedup)
    assert [fitting_dtype(CPU, 64, tmp_path) for _ in range(2)] == [found, found] and asked == [64]
    (memo,) = tmp_path.glob("models/dtype-*.json")
    assert json.loads(memo.read_text())["dtype"] == found
    memo.write_text("{")
    assert fitting_dtype(CPU, 64, tmp_path) == found and asked == [64, 64]


def test_the_speed_is_measured_on_this_machine():
    assert 0 < bfloat16_speedup(64) < math.inf  # how much is for a quiet machine to say: `tests.benchmarks.lm dtype`


@pytest.fixture
def job_of(tmp_path, model_folders, text_file):
    """Return a function that composes a job."""
    world = World(tmp_path, model_folders["llama"], text_file)
    _fitting_dtype.cache_clear()
    yield lambda *given: build(composed(*world.common, "tracker.mode=disabled", *given), "test")
    _fitting_dtype.cache_clear()


def test_a_run_in_bfloat16_by_auto_records_what_that_changes(job_of, monkeypatch):
    monkeypatch.setattr(dtype, "bfloat16_speedup", lambda width: 2.0)
    auto, asked, exact = (job_of(f"model.dtype={name}") for name in ("auto", "bfloat16", "float32"))
    assert auto.spec.run_id == asked.spec.run_id != exact.spec.run_id
    settings = _settings(type("Run", (), {"job": auto}), 1)  # as a worker gets them, maybe on another machine
    assert settings["model"]["dtype"] == "bfloat16" and settings["model"]["auto_dtype"]
    about = carry_out(auto)["lm"]
    precise = carry_out(exact)
    assert about["dtype"] == "bfloat16" and about["pass"] == "from the hook point"
    assert about["ce_clean_float32"] == pytest.approx(precise["metrics"]["ce_clean"], rel=1e-5)
    changed = carry_out(auto)["metrics"]["ce_clean"] - about["ce_clean_float32"]
    assert about["ce_clean_change"] == changed and 0 < abs(changed) < 0.05
    assert precise["lm"] == {"dtype": "float32", "pass": "from the hook point", "blocks": "model.layers"}


def test_a_machine_that_is_slower_in_bfloat16_stays_with_float32(job_of, monkeypatch):
    monkeypatch.setattr(dtype, "bfloat16_speedup", lambda width: 0.15)
    assert job_of("model.dtype=auto").spec.run_id == job_of("model.dtype=float32").spec.run_id


def test_an_unknown_dtype_is_one_line(job_of):
    with pytest.raises(ValueError, match="model.dtype=int4 must be one of auto, float32, bfloat16, float16"):
        job_of("model.dtype=int4")
