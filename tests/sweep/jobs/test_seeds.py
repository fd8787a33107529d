"""The seeds of the support, the initial values and the order of the data: one setting for all, or one for each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import sweep.launch  # noqa: F401  (registers the resolver)
from sae_core import arms, io
from sae_core.arms import DenseTied, Expander, FrozenRandom, Quantised
from sweep.jobs.build import build
from sweep.jobs.spec import Seeds
from sweep.run.stages import _build_sae, batches
from sweep.workers.worker import _batches_of
from tests.sweep.jobs.test_spec import ARMS, SPEC
from tests.sweep.world import composed

M = 24
DRAWN = ["expander", "expander_balanced", "clustered", "dynamic", "frozen_random", "soft_frozen"]


class Pool:
    """Activations of 100 rows."""

    d_in, tokens, mean_norm = M, 100, 1.0

    def rows(self, indices):
        return torch.from_numpy(indices)[:, None].expand(-1, M).float()


def job(tmp_path, *overrides):
    return build(composed(f"cache_dir={tmp_path}", *overrides), "test")


@pytest.mark.parametrize("name", [name for name in ARMS if "imported" not in name])  # whose width is that of its files
def test_a_support_seed_is_drawn_from_where_there_is_a_random_support_and_ignored_elsewhere(name):
    arm = ARMS[name]
    plain, same, other = arm.build(M, 3), arm.build(M, 3, support_seed=3), arm.build(M, 3, support_seed=4)
    for key, values in plain.state_dict().items():
        assert torch.equal(values, same.state_dict()[key])
    drawn = arm.draws_support
    assert drawn == (name.split()[0] in DRAWN)
    if isinstance(arm, Quantised) or not drawn:
        assert drawn or all(torch.equal(v, other.state_dict()[k]) for k, v in plain.state_dict().items())
        return
    assert not torch.equal(plain.dictionary.support, other.dictionary.support)
    assert torch.equal(other.dictionary.support, arm.build(M, 4).dictionary.support)
    if not isinstance(arm, arms.SoftFrozen):
        assert torch.equal(plain.dictionary.values, other.dictionary.values)


@pytest.mark.parametrize("arm", [Expander(64, 3, 4), FrozenRandom(64, 3, 4), Quantised(Expander(64, 3, 4), 8)])
def test_a_file_keeps_the_seeds_that_regenerate_it(arm, tmp_path):
    sae, h = arm.build(M, 3, support_seed=4), torch.randn(50, M, generator=torch.Generator().manual_seed(0))
    size = io.save(sae, tmp_path / "own")
    assert torch.equal(io.load(tmp_path / "own")(h).reconstruction, sae(h).reconstruction)
    assert size == io.save(arm.build(M, 3), tmp_path / "plain")
    for bad in ("x", True):
        file = tmp_path / "own" / io.CONFIG_FILE
        file.write_text(file.read_text().replace('"values_seed": 3', f'"values_seed": "{bad}"'))
        if isinstance(arm, FrozenRandom):
            with pytest.raises(io.SAEFileError):
                io.load(tmp_path / "own")


def test_a_seed_of_one_part_that_changes_nothing_leaves_the_run_id():
    same = replace(SPEC, seed_support=SPEC.seed, seed_values=SPEC.seed, seed_order=SPEC.seed)
    assert same.run_id == SPEC.run_id and same.own_seeds == {} and same.seeds == Seeds(0, 0, 0)
    dense = replace(SPEC, arm=DenseTied(64, 4))
    assert replace(dense, seed_support=5).run_id == dense.run_id and dense.seeds == Seeds(None, 0, 0)
    others = [replace(SPEC, **{name: 1}) for name in ("seed_support", "seed_values", "seed_order")]
    assert len({SPEC.run_id, *(other.run_id for other in others)}) == 4
    assert [other.seeds for other in others] == [Seeds(1, 0, 0), Seeds(0, 1, 0), Seeds(0, 0, 1)]
    assert others[0].as_json() == {**SPEC.as_json(), "seed_support": 1}


def test_settings_reach_the_run_and_its_names(tmp_path):
    plain = job(tmp_path, "seed=2")
    assert plain.title.endswith("L1 s2") and "seed_order" not in plain.axes
    own = job(tmp_path, "seed=2", "seed_support=7", "seed_order=8")
    assert own.title.endswith("L1 s2 (support 7, order 8)") and own.spec.seeds == Seeds(7, 2, 8)
    assert own.axes == {**plain.axes, "seed_support": 7, "seed_order": 8}
    dense = job(tmp_path, "sae=dense_tied", "seed_support=1")
    assert dense.spec.run_id == job(tmp_path, "sae=dense_tied").spec.run_id
    rounded = job(tmp_path, "sae=expander_quantised", "seed_values=3")
    assert rounded.starts_from.spec.seeds == Seeds(0, 3, 0) == rounded.spec.seeds
    pruned = job(tmp_path, "sae=pruned_retuned", "seed_support=3", "seed_order=3").starts_from
    assert pruned.spec.run_id == job(tmp_path, "sae=dense_tied", "seed_order=3").spec.run_id
    assert own.reference.spec.own_seeds == {} and own.reference.spec.seed == 0
    assert own.reference.settings["seed_support"] is None


def test_each_part_of_the_training_follows_its_own_seed(tmp_path):
    base = job(tmp_path, "seed=0")
    cpu = torch.device("cpu")

    def made(one):
        sae = _build_sae(one, None, Pool(), cpu)
        return sae.dictionary.support, sae.dictionary.values, batches(one, Pool(), cpu).read(range(5, 6))[0]

    start = made(base)
    for changed, name in enumerate(("seed_support", "seed_values", "seed_order")):
        one = job(tmp_path, "seed=0", f"{name}=1")
        whole = made(job(tmp_path, "seed=1"))
        for part, (ours, plain, other) in enumerate(zip(made(one), start, whole, strict=True)):
            assert torch.equal(ours, other if part == changed else plain)
        assert (_batches_of(one) == _batches_of(base)) == (name != "seed_order")


@pytest.mark.parametrize("name", ["seed_support", "seed_values", "seed_order"])
def test_a_seed_out_of_range_ends_in_one_line(name, tmp_path):
    for bad, said in (("-1", "must be in 0"), (str(2**63), "must be in 0"), ("x", "whole number or null")):
        with pytest.raises(ValueError, match=rf"{name}={bad} .*{said}"):
            job(tmp_path, f"{name}={bad}")
    with pytest.raises(ValueError, match=rf"{name}=1 is of an SAE"):
        job(tmp_path, "recovery=planted", f"{name}=1")


def test_rows_of_the_pool_are_those_of_the_order_seed(tmp_path):
    read = batches(job(tmp_path, "seed=0", "seed_order=1"), Pool(), torch.device("cpu")).read(range(1))[0]
    assert np.array_equal(
        read, batches(job(tmp_path, "seed=1", "seed_values=0"), Pool(), torch.device("cpu")).read(range(1))[0]
    )
