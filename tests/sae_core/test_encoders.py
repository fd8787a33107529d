"""BatchTopK: which entries a batch keeps, what the threshold follows, and how such codes are read in other ways."""

from __future__ import annotations

import pytest
import torch

from sae_core.arms import DenseTied, DenseWarmTied, Dynamic, Expander
from sae_core.encoders import BatchTopK, inner_encoder
from sae_core.inference import infer_by, multiply_adds
from sae_core.kernels.reference import densify
from sae_core.pursuit.reference import refit
from sae_core.regrow import regrow
from sae_core.theory import active_sets

M, N, K, TOKENS = 24, 96, 4, 200
ARMS = [Expander(N, 5, K, "batch_topk"), DenseTied(N, K, "batch_topk"), DenseWarmTied(N, K, "batch_topk")]
by_name = pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.label)


def activations(seed=1, tokens=TOKENS):
    """Random activations of lengths 4 to 6, so that tokens use different numbers of latents and none all candidates."""
    h = torch.randn(tokens, M, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(h, dim=1) * torch.linspace(4, 6, tokens)[:, None]


def built(arm):
    sae = arm.build(M, seed=0).double()
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(2))
        inner_encoder(sae.encoder).b_enc.normal_(generator=torch.Generator().manual_seed(3)).mul_(0.1)
    return sae


def products(sae, h):
    """z of all latents: (tokens, N)."""
    inner, dictionary = inner_encoder(sae.encoder), sae.dictionary
    weight = densify(dictionary.unit_values(), dictionary.support, M) if sae.tied else inner.weight
    return ((h.double() - sae.b_dec) @ weight.T + inner.b_enc).detach()


def dense(codes, indices):
    return torch.zeros(len(codes), N, dtype=codes.dtype).scatter(1, indices, codes.detach())


@by_name
def test_a_batch_keeps_its_k_times_tokens_largest_entries(arm):
    sae, h = built(arm), activations()
    codes, indices = sae.encode(h)
    z = products(sae, h).relu()
    bound = z.flatten().topk(K * TOKENS).values[-1]
    assert codes.shape == (TOKENS, BatchTopK.WIDTH * K) and int((codes != 0).sum()) == K * TOKENS
    counts = (codes != 0).sum(1)
    assert int(counts.min()) < K < int(counts.max()) < BatchTopK.WIDTH * K  # so that no candidate was missing
    torch.testing.assert_close(dense(codes, indices), torch.where(z >= bound, z, 0.0))


@by_name
def test_negative_entries_are_never_kept(arm):
    sae = built(arm)
    with torch.no_grad():
        inner_encoder(sae.encoder).b_enc.fill_(-1e3)
        inner_encoder(sae.encoder).b_enc[0] = 100.0
    codes, indices = sae.encode(activations())
    assert int((codes != 0).sum()) == TOKENS and bool((codes >= 0).all())
    assert bool((indices[codes != 0] == 0).all())


@by_name
def test_a_token_keeps_what_is_above_the_threshold_whatever_its_batch(arm):
    sae, h = built(arm), activations()
    sae.encode(h)
    sae.eval()
    threshold, z = sae.encoder.threshold.clone(), products(sae, h)
    codes, indices = sae.encode(h)
    torch.testing.assert_close(dense(codes, indices), torch.where(z > threshold, z, 0.0))
    alone = torch.cat([dense(*sae.encode(one[None])) for one in h])
    torch.testing.assert_close(alone, dense(codes, indices))
    assert torch.equal(sae.encoder.threshold, threshold)


def test_the_threshold_is_a_running_mean_of_the_smallest_entry_that_batches_keep():
    sae, expected = built(ARMS[0]), None
    for seed in range(5):
        h = activations(seed)
        smallest = products(sae, h).flatten().topk(K * TOKENS).values[-1]
        expected = smallest if expected is None else 0.99 * expected + 0.01 * smallest
        sae.residual(h)
        torch.testing.assert_close(sae.encoder.threshold, expected)
    sae.residual(h[:0])
    torch.testing.assert_close(sae.encoder.threshold, expected)


def test_entries_that_are_not_finite_show_in_both_modes_and_leave_the_threshold():
    sae, h = built(ARMS[0]), activations()
    sae.encode(h)
    before = sae.encoder.threshold.clone()
    with torch.no_grad():
        inner_encoder(sae.encoder).b_enc[3] = torch.nan
    for mode in (True, False):
        sae.train(mode)
        assert bool(sae.encode(h)[0].isnan().any(1).all())
    assert torch.equal(sae.encoder.threshold, before)


@by_name
def test_readings_by_topk_and_refit_keep_k_latents_and_those_that_fire(arm):
    sae, h = built(arm), activations(tokens=40)
    sae.encode(h)
    sae.eval()
    codes, indices = sae.encode(h)
    topk = infer_by(sae, "topk")
    assert topk.encode(h)[0].shape == (40, K) and isinstance(sae.encoder, BatchTopK)
    again, same = infer_by(sae, "refit").encode(h)
    assert torch.equal((dense(again, same) != 0).sum(1), (codes != 0).sum(1))
    atoms, x = densify(sae.dictionary.unit_values(), sae.dictionary.support, M).detach(), h.double() - sae.b_dec
    for token in range(40):
        picked = indices[token][codes[token] != 0]
        expected = torch.zeros(N, dtype=torch.float64)
        if len(picked):
            expected[picked] = refit(atoms, x[token].detach(), picked).codes
        torch.testing.assert_close(dense(again, same)[token], expected)
    products_each = M if not sae.tied or sae.dictionary.support is None else 5
    assert multiply_adds(sae) == multiply_adds(topk) == N * products_each


def test_a_learned_support_follows_the_entries_that_a_batch_keeps():
    """The gradient by which rows are chosen is that of the loss, by atoms as dense vectors."""
    sae, h = Dynamic(N, 5, K, "batch_topk").build(M, seed=0), activations()
    support = sae.dictionary.support.clone()
    unit = densify(sae.dictionary.unit_values().detach(), support, M).requires_grad_()
    codes, indices = sae.encode(h)
    kept = dense((codes != 0).float(), indices)
    loss = (h - (h @ unit.T * kept) @ unit).square().sum() / 2
    (gradient,) = torch.autograd.grad(loss, unit)
    best = gradient.abs().scatter(1, support, -1.0).argmax(1)
    regrow(sae, h, 1)
    alive = kept.sum(0) > 0
    new = [
        set(after) - set(before)
        for after, before in zip(sae.dictionary.support.tolist(), support.tolist(), strict=True)
    ]
    assert all(rows == {int(row)} for rows, row, live in zip(new, best, alive, strict=True) if live)


def test_sets_of_active_atoms_have_k_names_whatever_a_token_uses():
    codes = torch.tensor([[0.0, 3.0, 1.0, 2.0], [0.0, 0.0, -5.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    indices = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]])
    assert active_sets(codes, indices, 2).tolist() == [[5, 7], [10, 10]]
    assert active_sets(codes[:, 1:], indices[:, 1:], 3).tolist() == [[5, 6, 7], [10, 10, 10]]
