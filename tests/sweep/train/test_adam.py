"""The compiled step of Adam on clipped gradients does what torch's two calls do."""

from __future__ import annotations

import copy

import pytest
import torch

from sae_core.kernels import cpu
from sweep.train import adam
from sweep.train.adam import clipped_step

needs_compiled = pytest.mark.skipif(
    cpu.why_unavailable(torch.device("cpu")) is not None, reason=f"{cpu.why_unavailable(torch.device('cpu'))}"
)
SIZES = [(300, 7), (300,), (1,), (40, 1000)]


def trained(steps, max_norm, step, dtype=torch.float32, **options):
    """Parameters, and the optimizer, after some steps on random gradients; the third parameter never has one."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=generator, dtype=dtype)) for size in SIZES]
    optimizer = torch.optim.Adam(parameters, lr=1e-2, **options)
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 / (1 + i)
        for p in (*parameters[:2], parameters[3]):
            p.grad = torch.randn(p.shape, generator=generator, dtype=dtype) * 10.0 ** (i % 3 - 2)
        step(optimizer, max_norm)
    return parameters, optimizer


def by_torch(optimizer, max_norm):
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)
    optimizer.step()


@needs_compiled
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"betas": (0.5, 0.9), "eps": 1e-3}])
def test_parameters_and_moments_are_those_of_torch(level, max_norm, options, monkeypatch):
    called = []
    compiled = cpu.clipped_adam
    monkeypatch.setattr(cpu, "clipped_adam", lambda *given: called.append(1) or compiled(*given))
    try:
        if cpu.limit_instructions(level) != level:
            pytest.skip("this machine lacks the instruction set")
        ours, our_optimizer = trained(40, max_norm, clipped_step, **options)
    finally:
        cpu.limit_instructions(2)
    theirs, their_optimizer = trained(40, max_norm, by_torch, **options)
    assert len(called) == 39  # torch's first step makes the state
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        mine, other = our_optimizer.state.get(a, {}), their_optimizer.state.get(b, {})
        assert mine.keys() == other.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], rtol=1e-4, atol=1e-7)


@needs_compiled
def test_the_result_does_not_depend_on_the_number_of_threads():
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(trained(5, 1.0, clipped_step)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_compiled
def test_a_gradient_that_is_not_finite_shows_in_the_parameters():
    _, optimizer = trained(2, 1.0, clipped_step)
    first = optimizer.param_groups[0]["params"][0]
    for bad in (torch.nan, torch.inf):
        mine = copy.deepcopy(optimizer)
        p = mine.param_groups[0]["params"][0]
        p.grad = torch.zeros_like(first)
        p.grad[0, 0] = bad
        clipped_step(mine, 1.0)
        assert p[0, 0].isnan()


@pytest.mark.parametrize(
    "dtype, options", [(torch.float64, {}), (torch.float32, {"amsgrad": True}), (torch.float32, {"weight_decay": 0.1})]
)
def test_what_is_not_compiled_is_left_to_torch(dtype, options, monkeypatch):
    monkeypatch.setattr(adam.cpu, "clipped_adam", lambda *_: pytest.fail("compiled"))
    ours, theirs = (trained(5, 0.5, step, dtype, **options)[0] for step in (clipped_step, by_torch))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
