"""Tests that need a real GPU, because Triton's interpreter cannot stand in for one: `make test-gpu`."""

from __future__ import annotations

import pytest
import torch

from sae_core.arms import DenseTied, Expander
from sae_core.inference import infer_by
from sae_core.kernels import reference
from sae_core.kernels.dispatch import BACKENDS
from sae_core.kernels.gpu_greedy import pursue
from sae_core.losses import reconstruction_loss
from sae_core.pursuit.solvers import solver
from sae_core.supports import expander_support

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize(
    "arm",
    [
        Expander(3000, 7, 24),
        Expander(999, 3, 5),
        DenseTied(500, 8),
        Expander(999, 7, 12, "mp_refit"),
        Expander(999, 7, 12, "omp"),
        DenseTied(500, 8, "block4"),
        Expander(999, 7, 12, "mp_refit", "reflections8_trained", 3),
        Expander(999, 7, 12, basis="fourier"),
        Expander(999, 7, 12, basis="monarch_trained"),
        Expander(999, 7, 12, basis="butterfly_trained"),
    ],
    ids=str,
)
def test_loss_and_gradients_are_those_of_the_reference(arm):
    results = []
    for device, backend in (("cpu", "reference"), ("cuda", "auto")):
        sae = arm.build(200, seed=0, scale=0.7).double().to(device)
        sae.backend = backend
        h = torch.randn(77, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
        loss = reconstruction_loss(sae.residual(h).residual)
        loss.backward()
        results.append([loss.detach().cpu(), *(p.grad.cpu() for p in sae.parameters())])
    for got, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_training_step_never_holds_all_pre_activations():
    tokens, n = 8192, 65536
    sae = Expander(n, 7, 64).build(1024, seed=0).to("cuda")
    h = torch.randn(tokens, 1024, device="cuda")
    reconstruction_loss(sae.residual(h).residual).backward()  # the first call compiles
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    reconstruction_loss(sae.residual(h).residual).backward()
    assert torch.cuda.max_memory_allocated() - before < tokens * n * 4 / 4


@pytest.mark.parametrize("arm", [Expander(999, 7, 12), DenseTied(500, 8)], ids=str)
@pytest.mark.parametrize("reading", ["topk", "mp_refit", "omp", "mp_cg2", "nested_floor20"])
def test_codes_found_in_inference_mode_are_those_of_the_reference(arm, reading):
    h = torch.randn(77, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for device, backend in (("cpu", "reference"), ("cuda", "auto")):
        sae = infer_by(arm.build(200, seed=0, scale=0.7).double().to(device), reading)
        sae.backend = backend
        with torch.inference_mode():
            codes, indices = sae.encode(h.to(device))
        dense = torch.zeros(77, arm.n_latents, dtype=torch.float64)
        found.append(dense.scatter(1, indices.cpu(), codes.cpu()))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("degree, ways", [(7, ("changes", "rows")), (60, ("changes", "rows")), (None, ("rows",))])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("refit", [True, False])
def test_matching_pursuit_makes_the_picks_of_the_reference_in_each_way(degree, ways, signed, refit):
    tokens, d_in, n, k = 40, 300, 5000, 20
    g = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, d_in, generator=g, dtype=torch.float64)
    x[3], x[5, 2] = 0, float("nan")
    values = torch.nn.functional.normalize(torch.randn(n, degree or d_in, generator=g, dtype=torch.float64), dim=1)
    support = None if degree is None else expander_support(d_in, n, degree, 0)
    wanted = reference.matching_pursuit(x, values, support, k, signed, refit)
    on_gpu = [None if part is None else part.cuda() for part in (x, values, support)]
    for way in ways:
        codes, indices = (part.cpu() for part in pursue(way, *on_gpu, k, signed, refit))
        assert torch.equal(indices.sort().values, wanted[1].sort().values)
        dense = [torch.zeros(tokens, n, dtype=torch.float64).scatter(1, i, c) for c, i in ((codes, indices), wanted)]
        torch.testing.assert_close(dense[0], dense[1], equal_nan=True)


def test_matching_pursuit_never_holds_all_correlations():
    tokens, n = 16384, 65536
    values = torch.nn.functional.normalize(torch.randn(n, 7, device="cuda"), dim=1)
    support = expander_support(1024, n, 7, 0).cuda()
    x = torch.randn(tokens, 1024, device="cuda")
    pursue("changes", x[:100], values, support, 16, True, True)  # the first call compiles
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    pursue("changes", x, values, support, 16, True, True)
    assert torch.cuda.max_memory_allocated() - before < tokens * n * 4 / 3


@pytest.mark.parametrize("name", ["gomp4", "mp_refit", "cosamp"])
def test_duplicate_atoms_and_picks_beyond_the_rank_are_handled_as_by_the_reference(name):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(9, 200, generator=g, dtype=torch.float64)
    values = torch.nn.functional.normalize(torch.randn(20, 8, generator=g, dtype=torch.float64), dim=1).repeat(2, 1)
    support = torch.arange(8).repeat(40, 1)
    left = []
    for device, backend in (("cpu", "reference"), ("cuda", "gpu")):
        parts = [part.to(device) for part in (x, values, support)]
        codes, indices = solver(name)(BACKENDS[backend], *parts, 13)
        assert codes.isfinite().all()
        left.append(reference.residual(x, codes.cpu(), indices.cpu(), values, support).norm(dim=1))
    torch.testing.assert_close(left[1], left[0])
