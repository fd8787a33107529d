"""The exchange of a support's entries, against autograd through dense atoms, and its schedule."""

from __future__ import annotations

import pytest
import torch

from sae_core.arms import Dynamic
from sae_core.kernels.reference import densify
from sae_core.regrow import SupportSchedule, regrow

M, N, K, D = 20, 60, 4, 5


def sae_and_batch(encoder="topk", seed=0, basis="neurons", always_on=0):
    """An SAE of the arm `dynamic` with random biases, and activations."""
    sae = Dynamic(N, D, K, encoder=encoder, basis=basis, always_on=always_on).build(M, seed, scale=0.5).double()
    h = torch.randn(300, M, generator=torch.Generator().manual_seed(seed)).double() * 2
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(1))
        if encoder == "topk":
            sae.encoder.b_enc.normal_(generator=torch.Generator().manual_seed(2)).mul_(0.1)
    return sae, h


def dense_gradient(sae, h):
    """d ||x - W c||^2 / d W by autograd, W a dense leaf that encoder and decoder share, with the picks of the SAE.

    W and x are in the SAE's basis, less the coordinates that are always on.
    """
    always_on = sae.dictionary.always_on
    atoms = densify(sae.dictionary.unit_values().detach(), sae.dictionary.support, M).requires_grad_()
    x = sae.dictionary.basis.into((h * sae.scale - sae.b_dec).detach()).detach()
    codes, indices = (part.detach()[:, :K] for part in sae.encode(h))
    if hasattr(sae.encoder, "b_enc"):
        codes = (x @ atoms.T + sae.encoder.b_enc.detach()).gather(1, indices)
    left = x - torch.einsum("tk,tkm->tm", codes, atoms[indices])
    left[:, always_on:].square().sum().backward()
    return atoms.grad


@pytest.mark.parametrize("encoder", ["topk", "mp_refit"])
@pytest.mark.parametrize(
    "basis, always_on",
    [("neurons", 0), ("reflections4_trained", 0), ("butterfly_trained", 0), ("fourier", 0), ("fourier", 3)],
)
def test_the_smallest_entries_give_way_to_those_of_the_largest_gradients(encoder, basis, always_on):
    sae, h = sae_and_batch(encoder, basis=basis, always_on=always_on)
    dictionary = sae.dictionary
    signed = dense_gradient(sae, h)
    gradient = signed.abs()
    before, values = dictionary.support.clone(), dictionary.values.detach().clone()
    fired = torch.zeros(N, dtype=torch.bool)
    fired[sae.encode(h)[1][:, :K].flatten()] = True
    changed = regrow(sae, h, 2)
    assert fired.sum() > N / 3 and changed == 2 * int(fired.sum())
    for j in range(N):
        old, new = set(before[j].tolist()), set(dictionary.support[j].tolist())
        if not fired[j]:
            assert old == new
            continue
        outside = [r for r in gradient[j].argsort(descending=True).tolist() if r not in old and r >= always_on]
        assert new - old == set(outside[:2])
        smallest = before[j][values[j].abs().argsort()[:2]].tolist()
        assert old - new == set(smallest)
        kept = dict(zip(before[j].tolist(), values[j].tolist(), strict=True))
        now = dict(zip(dictionary.support[j].tolist(), dictionary.values[j].tolist(), strict=True))
        assert all(now[row] == kept[row] for row in new & old)
        for row, magnitude in zip(outside[:2], sorted(map(abs, kept.values()))[:2], strict=True):
            assert now[row] == -magnitude * float(signed[j, row].sign())
    assert (dictionary.support[:, 1:] > dictionary.support[:, :-1]).all()


def test_companions_move_with_their_values():
    sae, h = sae_and_batch()
    moments = torch.arange(N * D, dtype=torch.float64).view(N, D) + 1
    rows = {
        (j, r): float(m) for j in range(N) for r, m in zip(sae.dictionary.support[j].tolist(), moments[j], strict=True)
    }
    regrow(sae, h, 1, [moments])
    for j in range(N):
        for r, m in zip(sae.dictionary.support[j].tolist(), moments[j].tolist(), strict=True):
            assert m == rows.get((j, r), 0.0)


def test_a_gradient_made_in_chunks_exchanges_the_same_entries(monkeypatch):
    whole, h = sae_and_batch()
    regrow(whole, h, 3)
    monkeypatch.setattr("sae_core.regrow._CHUNK_VALUES", 7 * M)
    chunked, _ = sae_and_batch()
    regrow(chunked, h, 3)
    assert torch.equal(whole.dictionary.support, chunked.dictionary.support)
    assert torch.equal(whole.dictionary.values, chunked.dictionary.values)


def test_a_full_support_or_nothing_to_exchange_changes_nothing():
    sae, h = sae_and_batch()
    before = sae.dictionary.support.clone()
    assert regrow(sae, h, 0) == 0 and torch.equal(sae.dictionary.support, before)
    full = Dynamic(N, M, K).build(M, 0).double()
    assert regrow(full, h, 3) == 0


def test_the_number_of_exchanged_entries_falls_to_zero():
    schedule = SupportSchedule(every=10, drop=0.5, until=0.5, tokens=1)
    counts = {step: schedule.count(step, 100, 8) for step in range(101)}
    assert {step for step, count in counts.items() if count} == {10, 20, 30}
    assert [counts[step] for step in (10, 20, 30, 40)] == [3, 2, 1, 0]  # 3.6, 2.6, 1.4 and 0.4, rounded down
    assert SupportSchedule(10, 0.0, 0.5, 1).count(10, 100, 8) == 0
