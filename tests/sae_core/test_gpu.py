"""Tests that need a real GPU, because Triton's interpreter cannot stand in for one: `make test-gpu`."""

from __future__ import annotations

import pytest
import torch

from sae_core.arms import DenseTied, Expander
from sae_core.inference import infer_by
from sae_core.losses import reconstruction_loss

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
