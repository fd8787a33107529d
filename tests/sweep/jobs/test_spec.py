from __future__ import annotations

from dataclasses import replace

import pytest

from sae_core.arms import DenseMatched, DenseTied, Dynamic, Expander, Quantised
from sweep.activations.cache import CacheKey
from sweep.jobs.spec import RunSpec, latents_from, whole_number
from sweep.measures.config import EvalConfig
from sweep.train.config import TrainConfig

KEY = CacheKey("w", "float32", 2, "resid_post", "c", 128, "window", 1000, "float16", 0)
SPEC = RunSpec(KEY, Expander(64, 3, 4), TrainConfig(), EvalConfig(), 0)


def test_what_changes_the_result_changes_the_id():
    others = [
        replace(SPEC, seed=1),
        replace(SPEC, arm=Expander(64, 4, 4)),
        replace(SPEC, arm=DenseTied(64, 4)),
        replace(SPEC, train=TrainConfig(lr=1e-3)),
        replace(SPEC, eval=EvalConfig(windows=3)),
        replace(SPEC, activations=replace(KEY, layer=1)),
    ]
    assert len({SPEC.run_id, *(o.run_id for o in others)}) == len(others) + 1


def test_arms_of_other_fields_inside_others_too():
    arms = [Quantised(Expander(64, 3, 4), 8), Quantised(Expander(64, 3, 4), 4), Quantised(Expander(64, 5, 4), 8),
            Quantised(Dynamic(64, 3, 4), 8), Dynamic(64, 3, 4), Dynamic(64, 3, 4, drop=0.1), DenseMatched(640, 3, 4),
            DenseMatched(640, 3, 4, match="bytes"), Expander(64, 3, 4, encoder="mp_refit")]  # fmt: skip
    assert len({replace(SPEC, arm=arm).run_id for arm in arms}) == len(arms)


def test_fields_that_came_later_leave_older_names_alone():
    assert replace(SPEC, arm=DenseMatched(640, 3, 4)).as_json()["sae"] == {
        "arm": "dense_matched", "n_latents": 640, "degree": 3, "k": 4,
    }  # fmt: skip
    assert replace(SPEC, eval=EvalConfig(inference=("omp",), novelty=True, contexts=3)).run_id == SPEC.run_id


def test_what_does_not_does_not():
    assert replace(SPEC, train=TrainConfig(checkpoint_every=7)).run_id == SPEC.run_id


def test_the_id_is_the_same_on_every_machine():
    assert SPEC.run_id == GOLDEN


def test_latents_as_a_number_or_a_multiple():
    assert latents_from("8m", 256) == 2048 and latents_from(100, 256) == 100
    for bad in ("m", "8", "-1m", 0, 2.5, True, None):
        with pytest.raises(ValueError, match="n="):
            latents_from(bad, 256)


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", True, None])
def test_whole_numbers(value):
    with pytest.raises(ValueError, match=r"d=.* must be a whole number of at least 1"):
        whole_number("d", value, 1)


GOLDEN = "8616133907728a19"
