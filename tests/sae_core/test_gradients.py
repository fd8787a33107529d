"""`loss_gradients` finds what autograd finds, and training by either ends at the same SAE."""

from __future__ import annotations

import copy

import pytest
import torch

from sae_core.arms import (
    DenseLowRank,
    DenseTied,
    DenseWarmTied,
    Dynamic,
    Expander,
    FewBits,
    FrozenRandom,
    ProductQuantised,
    SoftFrozen,
    TrellisCoded,
)
from sae_core.gradients import loss_gradients
from sae_core.losses import matryoshka_loss, squared_errors
from sae_core.quantised import use_rounded
from sweep.train.loop import train_step

M, N, K = 24, 96, 4
ARMS = {
    "expander": Expander(N, 5, K),
    "expander by pursuit": Expander(N, 5, K, "mp_refit"),
    "in a fixed basis": Expander(N, 5, K, basis="reflections3"),
    "in a random basis": Expander(N, 5, K, "omp", basis="fourier"),
    "in a trained basis": Expander(N, 5, K, basis="reflections3_trained"),
    "some always on": Expander(N, 5, K, basis="reflections3", always_on=3),
    "frozen": FrozenRandom(N, 5, K),
    "frozen by pursuit": FrozenRandom(N, 5, K, "mp_refit"),
    "near random": SoftFrozen(N, 5, K),
    "learned support": Dynamic(N, 5, K, "mp_refit"),
    "rounded": FewBits(Expander(N, 5, K), 2),
    "rounded by pursuit": FewBits(Expander(N, 5, K, "mp_refit"), 1.58),
    "dense, rounded": FewBits(DenseTied(N, K), 1.58),
    "k on average": Expander(N, 5, K, "batch_topk"),
    "nested": Expander(N, 5, K, prefixes=("1/4",)),
    "nested by pursuit": Dynamic(N, 5, K, "mp_refit", prefixes=("1/4",)),
    "low rank": DenseLowRank(N, 5, K),
    "of pieces": ProductQuantised(DenseTied(N, K), 2),
    "on paths": TrellisCoded(DenseTied(N, K), 2),
    "dense": DenseTied(N, K),
    "dense by pursuit": DenseTied(N, K, "mp_refit"),
    "dense, own encoder": DenseWarmTied(N, K),
}


def started(arm):
    """Return an SAE of the arm in float64 with biases that are not zero, and activations for it."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(64, M, generator=generator, dtype=torch.float64) + 0.5
    sae = arm.build(M, 1, 0.7, h.float()).double()
    if arm.rounding is not None:
        use_rounded(sae, arm.rounding.grids)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if "b_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    return sae, h


def by_autograd(sae, h):
    """Set the gradients by autograd and return the output and the errors."""
    output = sae.residual_coordinates(h)
    errors = squared_errors(output.residual)
    sae.zero_grad(set_to_none=True)
    matryoshka_loss(output).backward()
    return output, errors


@pytest.mark.parametrize("backend", ["auto", "torch_gather", "reference"])
@pytest.mark.parametrize("name", ARMS)
def test_every_gradient_and_output_is_that_of_autograd(name, backend):
    sae, h = started(ARMS[name])
    sae.backend = backend
    other = copy.deepcopy(sae)
    found, found_errors = loss_gradients(sae, h)
    wanted, wanted_errors = by_autograd(other, h)
    for ours, theirs in zip((*found[:3], found_errors), (*wanted[:3], wanted_errors), strict=True):
        assert not ours.requires_grad
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-9, atol=1e-12)
    for (label, ours), theirs in zip(sae.named_parameters(), other.parameters(), strict=True):
        if not theirs.requires_grad:
            assert ours.grad is None, label
            continue
        assert theirs.grad is not None and float(theirs.grad.norm()) > 0, label
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", ARMS)
def test_a_hundred_steps_end_where_autograd_ends(name):
    sae, _ = started(ARMS[name])
    sae, batches = sae.float(), torch.randn(100, 64, M, generator=torch.Generator().manual_seed(3))
    other = copy.deepcopy(sae)
    ours, theirs = (torch.optim.Adam(one.parameters(), lr=1e-3) for one in (sae, other))
    for h in batches:
        train_step(sae, ours, h, 1e-3, 1.0)
        by_autograd(other, h)
        torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        theirs.step()
    for a, b in zip(sae.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)
    (_, picked), (_, expected) = sae.encode(batches[0]), other.encode(batches[0])
    assert (picked.sort(1).values == expected.sort(1).values).float().mean() > 0.99


def test_an_encoder_that_is_not_trained_keeps_its_bias():
    sae, h = started(ARMS["expander"])
    sae.encoder.b_enc.requires_grad_(False)
    loss_gradients(sae, h)
    assert sae.encoder.b_enc.grad is None and sae.b_dec.grad is not None


@pytest.mark.parametrize(
    "name", ["expander", "expander by pursuit", "in a fixed basis", "frozen", "dense", "rounded", "dense, own encoder"]
)
def test_autograd_is_not_used_where_the_gradient_is_known(name, monkeypatch):
    sae, h = started(ARMS[name])
    monkeypatch.delattr(torch.Tensor, "backward")
    loss_gradients(sae, h)
    assert all((p.grad is not None) == p.requires_grad for p in sae.parameters())
