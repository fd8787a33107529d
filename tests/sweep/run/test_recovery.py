"""The synthetic experiment: what it plants, what it measures, its settings, and a launch of it."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sae_core.arms import CellError
from sae_core.pursuit.batched import Pursuit
from sae_core.supports import clustered_support
from sweep.jobs.recovery import RecoveryConfig, RecoverySpec
from sweep.run.recovery import _code_errors, _planted, recovery_measures
from tests.sweep.test_inference import call

CPU = torch.device("cpu")


def spec(k=3, degree=5, n=200, **settings):
    config = RecoveryConfig(**{"d_in": 64, "trials": 40, "algorithms": ("omp_magnitude", "topk_magnitude"), **settings})
    return RecoverySpec(config, n, degree, k, 0)


@pytest.mark.parametrize("settings", [{}, {"mask": "dense"}, {"values": "flat"}, {"codes": "signs"}])
def test_few_planted_atoms_are_found_exactly_and_many_are_not(settings):
    few, many = recovery_measures(spec(2, **settings), CPU), recovery_measures(spec(30, **settings), CPU)
    assert few["omp_magnitude/exact_recovery"] > 0.9
    assert few["omp_magnitude/code_error"] < 0.1 < 0.5 < many["omp_magnitude/code_error"]
    assert many["omp_magnitude/exact_recovery"] < 0.1 and many["omp_magnitude/support_recovery"] < 0.9
    assert few["omp_magnitude/support_recovery"] >= few["topk_magnitude/support_recovery"]
    found = {name for name, value in few.items() if name.endswith("exact_recovery")}
    assert found == {"omp_magnitude/exact_recovery", "topk_magnitude/exact_recovery"}
    assert all(value >= 0 for value in (*few.values(), *many.values()))


def test_code_error_counts_wrong_and_missing_atoms_once_each():
    """All picks wrong: the planted codes and the found ones are orthogonal vectors of n."""
    found = Pursuit(torch.tensor([[0, 1], [5, 3]]), torch.tensor([[3.0, 4.0], [1.0, 2.0]]), torch.zeros(2))
    errors = _code_errors(found, torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[7, 8], [3, 5]]))
    assert errors.tolist() == pytest.approx([2**0.5, (1 / 2) ** 0.5])


def test_planted_codes_that_cancel_are_no_failure():
    """Atoms of one entry on two rows, with codes of +-1: where both planted atoms are one row the target is 0 or 2."""
    config = RecoveryConfig(d_in=2, values="flat", codes="signs", trials=20)
    dictionary, targets, *_ = _planted(RecoverySpec(config, 8, 1, 2, 0), CPU, "auto")
    assert bool((targets.norm(dim=1) == 0).any()) and dictionary.n_latents == 8  # some targets do cancel
    found = recovery_measures(RecoverySpec(config, 8, 1, 2, 0), CPU)
    # Two picks span both rows, so nothing is left of any target; a target of 0 leaves 0, not 0/0.
    assert found["omp_magnitude/relative_residual"] == pytest.approx(0, abs=1e-6)
    assert all(math.isfinite(value) for value in found.values())


def test_noise_hurts_and_clusters_fail():
    clean, noisy = recovery_measures(spec(4), CPU), recovery_measures(spec(4, noise=0.5), CPU)
    clustered = recovery_measures(spec(4, mask="clustered"), CPU)
    name = "omp_magnitude/support_recovery"
    assert clean[name] > noisy[name] and clean[name] > clustered[name]
    assert clean["omp_magnitude/relative_residual"] < noisy["omp_magnitude/relative_residual"]


def test_clustered_supports_are_whole_blocks():
    support = clustered_support(20, 300, 6, seed=1)
    assert {tuple(atom) for atom in support.tolist()} == {tuple(range(b, b + 6)) for b in (0, 6, 12)}
    assert torch.equal(support, clustered_support(20, 300, 6, seed=1))


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"mask": "square"}, "recovery.mask=square must be one of expander"),
        ({"noise": -1.0}, "recovery.noise=-1.0"),
        ({"trials": 0}, "recovery.trials=0"),
        ({"algorithms": ("magic",)}, "magic is no pursuit"),
        ({"algorithms": ()}, "at least one"),
        ({"degree": 65}, "d=65 must be in 1..64"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        spec(**settings)


def test_a_cell_without_unique_codes_is_left_out():
    with pytest.raises(CellError):
        spec(k=100)


def test_a_launch_records_each_cell_once_and_the_next_skips_them(tmp_path):
    cells = ["recovery=planted", "recovery.mask=expander,dense", "d=3,5", "k=2,40", "n=80"]
    settings = ["recovery.d_in=32", "recovery.trials=10", "threads=1", "tracker.mode=disabled"]
    arguments = ["-m", *cells, *settings, f"runs_dir={tmp_path}"]
    done = call("sweep", *arguments)
    assert "left out: " in done.stdout and "exact recovery" in done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/record.json")]
    cells = [("dense", 32), ("expander", 3), ("expander", 5)]
    assert sorted((r["labels"]["arm"], r["sizes"]["degree"]) for r in records) == cells
    assert all(r["kind"] == "recovery" and r["status"] == "complete" for r in records)
    assert call("sweep", *arguments).stdout.count("skipped: done") == 3
    refused = call("sweep", "recovery=planted", "recovery.mask=square", code=1)
    assert "recovery.mask=square must be one of" in refused.stderr
