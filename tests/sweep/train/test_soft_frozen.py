"""Atoms that may turn only so far away from their random start."""

from __future__ import annotations

import pytest
import torch

from sae_core.arms import Expander, SoftFrozen
from sweep.train.config import TrainConfig
from sweep.train.loop import train

M, N, D, K = 24, 48, 6, 4


def cosines(sae):
    return torch.nn.functional.cosine_similarity(sae.dictionary.values.detach(), sae.dictionary.start, dim=1)


def trained(arm, lr=3e-2):
    sae, h = arm.build(M, seed=0), torch.randn(512, M, generator=torch.Generator().manual_seed(1))
    config = TrainConfig(steps=300, batch_size=64, lr=lr, resample_min_steps=50)
    reports = train(sae, lambda indices: h[torch.from_numpy(indices)], 512, float(h.var(0).sum()), config, 0).reports
    return sae, reports[-1].fvu


@pytest.mark.parametrize("encoder", ["topk", "mp_refit"])
def test_training_and_resampling_leave_every_atom_near_its_start(encoder):
    sae, _ = trained(SoftFrozen(N, D, K, encoder=encoder))
    assert float(cosines(sae).min()) > 0.8 - 1e-5
    assert float(cosines(sae).mean()) < 0.99  # they do move


def test_the_further_atoms_may_turn_the_better_they_fit():
    fvu = [trained(SoftFrozen(N, D, K, encoder="mp_refit", cosine=c))[1] for c in (1.0, 0.8, 0.0)]
    assert fvu[0] > fvu[1] > fvu[2] > 0.9 * trained(Expander(N, D, K, encoder="mp_refit"))[1]


def test_an_atom_that_has_gone_too_far_comes_back_to_the_nearest_allowed_direction():
    dictionary = SoftFrozen(N, D, K).build(M, seed=0).dictionary
    start = dictionary.start
    g = torch.Generator().manual_seed(2)
    away = torch.randn(N, D, generator=g) * 3
    with torch.no_grad():
        dictionary.values.copy_(away)
    dictionary.constrain()
    values = dictionary.values.detach()
    assert torch.allclose(values.norm(dim=1), away.norm(dim=1), rtol=1e-5)
    before = torch.nn.functional.cosine_similarity(away, start, dim=1)
    after = torch.nn.functional.cosine_similarity(values, start, dim=1)
    assert torch.allclose(after, before.clamp_min(0.8), atol=1e-5)
    closest = torch.nn.functional.cosine_similarity(values, away, dim=1)
    for _ in range(200):  # no other allowed direction is closer to where the atom was
        other = torch.nn.functional.normalize(start + 0.5 * torch.randn(N, D, generator=g), dim=1)
        allowed = torch.nn.functional.cosine_similarity(other, start, dim=1) >= 0.8
        nearer = torch.nn.functional.cosine_similarity(other, away, dim=1) > closest + 1e-5
        assert not (allowed & nearer).any()
    dictionary.constrain()
    assert torch.allclose(dictionary.values.detach(), values, atol=1e-6)


@pytest.mark.parametrize("cosine", [-0.1, 1.1])
def test_a_cosine_out_of_range_is_named(cosine):
    with pytest.raises(ValueError, match=f"cosine={cosine} must be in 0..1"):
        SoftFrozen(N, D, K, cosine=cosine).build(M, seed=0)
