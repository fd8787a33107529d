"""Run ids: what changes them, what does not, and the ids that every version must give."""

from __future__ import annotations

import json
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import save_file

from sae_core import arms
from sae_core.arms import DenseMatched, DenseTied, Dynamic, Expander, FewBits, Quantised
from sae_core.hashed import changes_no_result, hashed_fields, later
from sweep.activations.cache import CacheKey
from sweep.jobs.recovery import RecoveryConfig, RecoverySpec
from sweep.jobs.spec import RunSpec, latents_from, whole_number
from sweep.measures.config import EvalConfig
from sweep.train.config import TrainConfig

KEY = CacheKey("w", "float32", 2, "resid_post", "c", 128, "window", 1000, "float16", 0)
SPEC = RunSpec(KEY, Expander(64, 3, 4), TrainConfig(), EvalConfig(), 0)
RECOVERY = RecoverySpec(RecoveryConfig(), 64, 3, 4, 0)


FOLDER = TemporaryDirectory()  # of the imported SAE, as long as these tests run


def imported():
    """The arm of an SAE in SAELens' format, whose files are the same everywhere."""
    tensors = {"W_enc": torch.ones(8, 64), "W_dec": torch.ones(64, 8), "b_enc": torch.ones(64), "b_dec": torch.ones(8)}
    save_file(tensors, f"{FOLDER.name}/sae_weights.safetensors")
    config = {"architecture": "standard", "d_in": 8, "d_sae": 64, "metadata": {"sae_lens_version": "6.0.0"}}
    Path(FOLDER.name, "cfg.json").write_text(json.dumps(config))
    return arms.Imported(4, FOLDER.name)


ARMS = {
    "expander": Expander(64, 3, 4),
    "expander by mp_refit": Expander(64, 3, 4, encoder="mp_refit"),
    "expander in reflections": Expander(64, 3, 4, basis="reflections8", always_on=2),
    "expander_balanced": arms.ExpanderBalanced(64, 3, 4),
    "clustered": arms.Clustered(64, 3, 4),
    "banded": arms.Banded(64, 3, 4),
    "pruned_retuned": arms.PrunedRetuned(64, 3, 4),
    "dynamic": Dynamic(64, 3, 4),
    "frozen_random": arms.FrozenRandom(64, 3, 4),
    "soft_frozen": arms.SoftFrozen(64, 3, 4),
    "dense_tied": DenseTied(64, 4),
    "dense_warmtied": arms.DenseWarmTied(64, 4),
    "dense_randinit": arms.DenseRandInit(64, 4),
    "dense_matched": DenseMatched(640, 3, 4),
    "dense_matched by bytes": DenseMatched(640, 3, 4, match="bytes"),
    "dense_matched_own": arms.DenseMatchedOwn(640, 3, 4),
    "dense_low_rank": arms.DenseLowRank(64, 3, 4),
    "itda": arms.ITDA(64, 4),
    "kron": arms.Kron(64, 4),
    "imported": imported(),
    "imported, made smaller": arms.Compressed(imported(), 48, 3, 4),
    "pca": arms.PCA(64, 3),
    "expander at 8 bits": Quantised(Expander(64, 3, 4), 8),
    "expander at 1.58 bits": Quantised(Expander(64, 3, 4), 1.58),
    "expander trained with 2 bits": FewBits(Expander(64, 3, 4), 2),
    "dense_tied trained with 2 bits in a fourier basis": FewBits(DenseTied(64, 4), 2, rounded_in="fourier"),
    "dense_tied of pieces": arms.ProductQuantised(DenseTied(64, 4), 2),
    "dense_tied of weighted pieces": arms.ProductQuantised(
        DenseTied(64, 4), 2, rounded_in="fourier", pieces="weighted"
    ),
    "dense_tied on paths": arms.TrellisCoded(DenseTied(64, 4), 2),
    "expander of k on average": Expander(64, 3, 4, encoder="batch_topk"),
    "expander of nested prefixes": Expander(64, 3, 4, prefixes=("1/4",)),
    "expander cut to a quarter": arms.Prefix(Expander(64, 3, 4), "1/4"),
}
GOLDEN = {  # run ids of 2026-11-23, which records and folders of users bear
    "expander": "8616133907728a19",
    "expander by mp_refit": "8ca342bedef38b2c",
    "expander in reflections": "21c04388f96ecae6",  # of 2026-11-26
    "expander_balanced": "bcd1778ea216d115",
    "clustered": "5e72e4a0eaa60b0b",
    "banded": "347619ded152bd06",
    "pruned_retuned": "a68db65a83b8b52a",
    "dynamic": "4be411dff3bbd5e7",
    "frozen_random": "b9faba0a83abdb5b",
    "soft_frozen": "2f1f724a21152821",  # of 2026-11-26
    "dense_tied": "60c145cedff3d4b6",
    "dense_warmtied": "150d9a47162ca251",
    "dense_randinit": "b0796fd45cb57a51",
    "dense_matched": "9033f6e1718bd8e0",
    "dense_matched by bytes": "9d8e9bd1263e80fe",
    "dense_matched_own": "607edd741009f39f",
    "dense_low_rank": "335bc57cc67eed7e",  # of 2026-11-26
    "itda": "439f6bebb740be7c",  # of 2026-11-26
    "imported": "47c9aaffd8d123a4",  # of 2026-11-26
    "pca": "148e83046a578e7e",
    "expander at 8 bits": "34067635e29e774d",
    "expander at 1.58 bits": "06c65983a3c31628",  # of 2026-11-26
    "expander trained with 2 bits": "a18df89c14f9f257",  # of 2026-11-26
    "dense_tied of pieces": "33d73b603eaeeca9",  # of 2026-11-26
    "dense_tied on paths": "4a423f990f174d1b",  # of 2026-11-27
    "expander of k on average": "d83388b5982f5c69",  # of 2026-11-26
    "expander of nested prefixes": "c361d98ed153d49d",  # of 2026-11-26
    "expander cut to a quarter": "45bf54125c46ac29",  # of 2026-11-26
    "kron": "e6f6750de0e0da2b",  # of 2026-11-26
    "imported, made smaller": "65ab09dbadc728c3",  # of 2026-11-27
    "dense_tied trained with 2 bits in a fourier basis": "6433625035151958",  # of 2026-11-26
    "dense_tied of weighted pieces": "376f7147446da06e",  # of 2026-11-27
}


@pytest.mark.parametrize("name", ARMS)
def test_run_ids_never_change(name):
    assert replace(SPEC, arm=ARMS[name]).run_id == GOLDEN[name]


def test_every_arm_has_a_golden_run_id():
    concrete = {getattr(arms, name) for name in arms.__all__ if isinstance(getattr(arms, name), type)}
    concrete -= {arms.Arm, arms.Sizes, arms.CellError}
    assert {type(arm) for arm in ARMS.values()} == concrete


def test_names_of_activation_entries_and_experiments_never_change():
    assert KEY.name == "fdd692afca5e1bf4" and RECOVERY.run_id == "6271b3308fe37455"
    dense = RecoverySpec(RecoveryConfig(mask="dense", algorithms=("omp", "mp")), 64, 512, 4, 1)
    assert dense.run_id == "b03996b307386ea0"


def test_a_setting_that_changes_the_result_changes_the_run_id():
    others = [
        replace(SPEC, activations=replace(KEY, outlier_norm=5.0)),
        replace(SPEC, activations=replace(KEY, outlier_norm=10.0)),
        replace(SPEC, seed=1),
        replace(SPEC, arm=Expander(64, 4, 4)),
        replace(SPEC, arm=DenseTied(64, 4)),
        replace(SPEC, train=TrainConfig(lr=1e-3)),
        replace(SPEC, eval=EvalConfig(windows=3)),
        replace(SPEC, activations=replace(KEY, layer=1)),
    ]
    assert len({SPEC.run_id, *(other.run_id for other in others)}) == len(others) + 1


def test_the_fields_of_an_arm_inside_another_change_the_run_id():
    different = [
        Quantised(Expander(64, 3, 4), 8),
        Quantised(Expander(64, 3, 4), 4),
        Quantised(Expander(64, 5, 4), 8),
        Quantised(Dynamic(64, 3, 4), 8),
        FewBits(Expander(64, 3, 4), 8),
        FewBits(Expander(64, 3, 4), 8, rounded_from=0.25),
        Dynamic(64, 3, 4),
        Dynamic(64, 3, 4, drop=0.1),
        DenseMatched(640, 3, 4),
        DenseMatched(640, 3, 4, match="bytes"),
        Expander(64, 3, 4, encoder="mp_refit"),
    ]
    assert len({replace(SPEC, arm=arm).run_id for arm in different}) == len(different)


def test_the_spec_says_which_tokens_are_measured():
    assert SPEC.as_json()["eval"]["mask_policy"] == "all_tokens"
    ordinary = replace(SPEC, activations=replace(KEY, outlier_norm=5.0)).as_json()
    assert ordinary["eval"]["mask_policy"] == "ordinary_tokens" and ordinary["activations"]["outlier_norm"] == 5.0


def test_a_setting_that_changes_no_result_leaves_the_run_id():
    assert replace(SPEC, activations=replace(KEY, may_widen=True)).run_id == SPEC.run_id
    assert replace(SPEC, train=TrainConfig(checkpoint_every=7)).run_id == SPEC.run_id
    assert replace(SPEC, eval=EvalConfig(inference=("omp",), novelty=True, contexts=3)).run_id == SPEC.run_id
    assert replace(SPEC, arm=DenseMatched(640, 3, 4)).as_json()["sae"] == {
        "arm": "dense_matched",
        "n_latents": 640,
        "degree": 3,
        "k": 4,
    }


def grown(config, field):
    """Return `config` as an instance of its own class with one field more, `newcomer`."""
    kind = type(config)
    more = make_dataclass(kind.__name__, [("newcomer", int, field)], bases=(kind,), frozen=True)
    return more(**{each.name: getattr(config, each.name) for each in fields(config) if each.init})


def ids_of(config):
    """Return what is named by a hash that covers `config`."""
    if isinstance(config, arms.Arm):
        return [replace(SPEC, arm=config).run_id]
    if isinstance(config, CacheKey):
        return [replace(SPEC, activations=config).run_id, config.name]
    if isinstance(config, RecoveryConfig):
        return [replace(RECOVERY, config=config).run_id]
    return [replace(SPEC, **{"train" if isinstance(config, TrainConfig) else "eval": config}).run_id]


@pytest.mark.parametrize(
    "config",
    [*ARMS.values(), SPEC.train, SPEC.eval, KEY, RECOVERY.config],
    ids=lambda config: type(config).__name__,
)
def test_a_field_that_comes_later_changes_no_older_id(config):
    before = ids_of(config)
    new = grown(config, later(0))
    assert ids_of(new) == before
    assert all(a != b for a, b in zip(ids_of(replace(new, newcomer=1)), before, strict=True))
    silent = grown(config, changes_no_result(0))
    assert ids_of(silent) == ids_of(replace(silent, newcomer=1)) == before


def test_hashed_fields_describe_nested_configs():
    outer = make_dataclass("Outer", [("inner", object), ("size", int)], frozen=True)
    assert hashed_fields(outer(TrainConfig(steps=3), 2))["inner"]["steps"] == 3
    assert hashed_fields(outer(TrainConfig(), 2), lambda inner: {"steps": inner.steps}) == {
        "inner": {"steps": 5000},
        "size": 2,
    }


def test_latents_are_a_number_or_a_multiple_of_the_width():
    assert latents_from("8m", 256) == 2048 and latents_from(100, 256) == 100
    for bad in ("m", "8", "-1m", 0, 2.5, True, None):
        with pytest.raises(ValueError, match="n="):
            latents_from(bad, 256)


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", True, None])
def test_an_axis_must_be_a_whole_number(value):
    with pytest.raises(ValueError, match=r"d=.* must be a whole number of at least 1"):
        whole_number("d", value, 1)
