"""Steps replayed from a CUDA graph are the steps computed as usual: the tests that need a GPU, and what a CPU does."""

from __future__ import annotations

import pytest
import torch

from sae_core.arms import DenseTied, DenseWarmTied, Expander, FrozenRandom
from sweep.train.loop import train_step
from sweep.train.recorded import RecordedGradients, can_be_recorded

on_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
ARMS = [
    Expander(900, 7, 12),
    Expander(900, 7, 12, "mp_refit"),
    Expander(900, 40, 12, "mp_refit_magnitude"),
    Expander(900, 7, 12, "topk", "reflections8"),
    Expander(900, 7, 12, "topk", "butterfly"),
    FrozenRandom(900, 7, 12),
    Expander(900, 7, 12, always_on=3),
    DenseTied(300, 8),
    DenseTied(300, 8, "mp_refit"),
    DenseWarmTied(300, 8),
]


def trained(arm, device, record, changed=lambda sae, step: None):
    """Train a float64 SAE for 14 steps of two batch sizes; return it and the losses."""
    sae = arm.build(200, seed=0, scale=0.7).double().to(device)
    optimizer = torch.optim.Adam(sae.parameters(), fused=True)
    recorded = RecordedGradients(sae) if record else None
    g, losses = torch.Generator().manual_seed(0), []
    for step in range(14):
        h = torch.randn(40 if step < 9 else 24, 200, generator=g, dtype=torch.float64).to(device)
        output, errors = train_step(sae, optimizer, h, 1e-3 / (step + 1), 1.0, recorded)
        losses.append((errors.mean() + output.codes.square().sum()).item())
        changed(sae, step)
    return sae, losses


def assert_same(one, other):
    for a, b in zip(one[0].parameters(), other[0].parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert one[1] == pytest.approx(other[1])


@pytest.mark.parametrize("arm", ARMS, ids=str)
def test_nothing_is_recorded_on_a_cpu(arm):
    assert_same(trained(arm, "cpu", record=True), trained(arm, "cpu", record=False))


@pytest.mark.parametrize("arm", [pytest.param(arm, marks=on_gpu, id=str(arm)) for arm in ARMS])
def test_replayed_steps_are_those_computed_as_usual(arm):
    sae = arm.build(200, seed=0).to("cuda")
    assert can_be_recorded(sae, torch.zeros(40, 200, device="cuda"))
    assert_same(trained(arm, "cuda", record=True), trained(arm, "cuda", record=False))


@pytest.mark.parametrize("where", [pytest.param("cuda", marks=on_gpu)])
def test_a_recording_is_made_anew_where_tensors_are_replaced_and_reads_those_that_change_in_place(where):
    def changed(sae, step):
        if step == 5:
            sae.dictionary.support = sae.dictionary.support.roll(1, 0)
        if step == 7:
            sae.b_dec.data.add_(1.0)

    arm = Expander(900, 7, 12)
    assert_same(trained(arm, where, True, changed), trained(arm, where, False, changed))
    assert trained(arm, where, True, changed)[1] != pytest.approx(trained(arm, where, True)[1])


@pytest.mark.parametrize("where", [pytest.param("cuda", marks=on_gpu)])
def test_steps_in_which_the_host_waits_are_not_recorded(where):
    others = [Expander(900, 7, 12, encoder) for encoder in ("omp", "gomp4", "mp_cg1")]
    for arm in (*others, Expander(900, 7, 12, basis="monarch"), Expander(900, 7, 12, basis="reflections8_trained")):
        sae = arm.build(200, seed=0).to(where)
        assert_same(trained(arm, where, record=True), trained(arm, where, record=False))
        assert not can_be_recorded(sae, torch.zeros(40, 200, device=where))
