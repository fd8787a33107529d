"""Dead latents are re-aimed, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from sae_core.arms import DenseWarmTied, Expander
from sae_core.dead_latents import resample_dead


def sae_and_batch(arm):
    """An SAE, activations, a reconstruction of zeros, and squared errors that are all on token 7."""
    sae = arm.build(16, seed=0)
    with torch.no_grad():
        sae.encoder.b_enc.fill_(0.3)
    h = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    reconstruction = torch.zeros_like(h)
    errors = torch.zeros(32)
    errors[7] = 2.0
    return sae, h, reconstruction, errors


@pytest.mark.parametrize("arm", [Expander(64, 3, 4), DenseWarmTied(64, 4)], ids=lambda a: a.name)
def test_dead_latents_are_aimed_at_the_residual_and_the_others_left_alone(arm):
    sae, h, reconstruction, errors = sae_and_batch(arm)
    firings = torch.full((64,), 5)
    firings[[2, 40]] = 4
    before = sae.dictionary.values.detach().clone()
    count = resample_dead(sae, firings, h - reconstruction, errors, torch.Generator().manual_seed(0))
    assert count == 2
    values, degree = sae.dictionary.values.detach(), sae.dictionary.degree
    for latent in (2, 40):
        support = sae.dictionary.support
        wanted = h[7] if support is None else h[7][support[latent]]
        torch.testing.assert_close(values[latent], wanted / wanted.norm() / degree**0.5)
        assert sae.encoder.b_enc[latent] == 0
    alive = firings >= 5
    assert torch.equal(values[alive], before[alive])
    assert (sae.encoder.b_enc[alive] == 0.3).all()


def test_nothing_is_done_when_most_are_dead_or_nothing_is_wrong():
    sae, h, reconstruction, errors = sae_and_batch(Expander(64, 3, 4))
    generator = torch.Generator().manual_seed(0)
    assert resample_dead(sae, torch.zeros(64, dtype=torch.int64), h - reconstruction, errors, generator) == 0
    assert resample_dead(sae, torch.full((64,), 9), h - reconstruction, errors, generator) == 0
    few = torch.full((64,), 9)
    few[0] = 0
    assert resample_dead(sae, few, h - reconstruction, errors * 0, generator) == 0
