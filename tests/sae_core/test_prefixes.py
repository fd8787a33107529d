"""Nested prefixes of latents: what each leaves, what is trained, and a prefix cut off as an SAE of its own."""

from __future__ import annotations

import json

import pytest
import torch

from sae_core import io
from sae_core.arms import (
    ITDA,
    Banded,
    CellError,
    DenseTied,
    DenseWarmTied,
    Dynamic,
    Expander,
    ExpanderBalanced,
    FrozenRandom,
    Prefix,
    ProductQuantised,
    SoftFrozen,
    TrellisCoded,
)
from sae_core.codebook import bits_a_value
from sae_core.encoders import inner_encoder
from sae_core.losses import matryoshka_loss, reconstruction_loss
from sae_core.prefixes import checked_part, cut, prefix_sizes
from sae_core.regrow import regrow
from sae_core.storage import count_storage
from tests.sae_core.test_io import edit_config

M, N, D, K = 24, 96, 5, 4
SIZES = (12, 48, N)
ENCODERS = ("topk", "batch_topk", "mp_refit")


def batch(tokens=64, seed=1):
    return torch.randn(tokens, M, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def built(arm):
    """An SAE whose biases are not 0."""
    sae = arm.build(M, seed=0, scale=0.5).double()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    return sae


@pytest.mark.parametrize("always_on", [0, 2])
@pytest.mark.parametrize("encoder", ["topk", "batch_topk"])
def test_a_one_shot_prefix_has_the_codes_that_its_latents_have_among_all(encoder, always_on):
    sae, h = built(Expander(N, D, K, encoder, "fourier", always_on, prefixes=("1/8", "1/2"))), batch()
    found = sae.residual(h)
    assert sae.prefixes == SIZES and len(found.shorter) == 2
    for size, shorter in zip(SIZES, (*found.shorter, found), strict=True):
        own = found.codes.masked_fill((found.indices >= size) & (found.indices < N), 0.0)
        assert torch.equal(shorter.codes, own)
        torch.testing.assert_close(shorter.residual, 0.5 * (h - sae.decode(own, found.indices)))


def test_a_pursuit_looks_for_the_codes_of_each_prefix_anew():
    sae, h = built(Expander(N, D, K, "mp_refit", prefixes=("1/8", "1/2"))), batch()
    found = sae.residual(h)
    for size, shorter in zip(SIZES[:2], found.shorter, strict=True):
        alone = cut(sae, size).residual(h)
        torch.testing.assert_close(shorter.residual, alone.residual)
        assert torch.equal(shorter.indices, alone.indices)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_loss_is_the_sum_over_prefixes_and_moves_their_latents(encoder):
    sae, h = built(Expander(N, D, K, encoder, prefixes=("1/8", "1/2"))), batch()
    found = sae.residual(h)
    each = [reconstruction_loss(part.residual) for part in (*found.shorter, found)]
    torch.testing.assert_close(matryoshka_loss(found), each[0] + each[1] + each[2])
    gradient = torch.autograd.grad(each[0], sae.dictionary.values)[0].abs().sum(1)
    assert bool((gradient[12:] == 0).all()) and bool((gradient[:12] > 0).any())
    plain = built(Expander(N, D, K, encoder)).residual(h)
    assert plain.shorter == () and torch.equal(matryoshka_loss(plain), reconstruction_loss(plain.residual))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_learned_support_follows_the_sum_of_the_prefixes_losses(encoder):
    sae, h = Dynamic(N, D, K, encoder, prefixes=("1/8", "1/2")).build(M, seed=0).double(), batch(200)
    support = sae.dictionary.support.clone()
    unit = sae.dictionary.unit_values().detach()
    atoms = torch.zeros(N, M, dtype=torch.float64).scatter(1, support, unit).requires_grad_()
    found, loss = sae.residual(h), torch.zeros((), dtype=torch.float64)
    for part in (*found.shorter, found):
        codes = torch.zeros(len(h), N, dtype=torch.float64).scatter(1, part.indices, part.codes.detach())
        used = codes if encoder == "mp_refit" else (h @ atoms.T) * (codes != 0)
        loss = loss + (h - used @ atoms).square().sum() / 2
    (gradient,) = torch.autograd.grad(loss, atoms)
    best = gradient.abs().scatter(1, support, -1.0).argmax(1)
    regrow(sae, h, 1)
    pairs = zip(sae.dictionary.support.tolist(), support.tolist(), best.tolist(), strict=True)
    assert all(set(after) - set(before) == {row} for after, before, row in pairs)


CUT = [
    *(Expander(N, D, K, encoder, prefixes=("1/8", "1/2")) for encoder in ENCODERS),
    ExpanderBalanced(N, D, K),
    Banded(N, D, K),
    SoftFrozen(N, D, K),
    FrozenRandom(N, D, K),
    Dynamic(N, D, K, basis="reflections3", always_on=2),
    DenseTied(N, K, "batch_topk"),
    DenseWarmTied(N, K, "batch_topk"),
]


@pytest.mark.parametrize("arm", CUT, ids=lambda arm: arm.label)
def test_a_cut_sae_has_the_first_latents_and_comes_back_from_its_file(arm, tmp_path):
    sae, h = arm.build(M, seed=0, scale=0.5), batch().float()
    sae.residual(h)
    sae.eval()
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    part = cut(sae, 48)
    assert all(torch.equal(tensor, before[name]) for name, tensor in sae.state_dict().items())
    assert torch.equal(part.dictionary.unit_values(), sae.dictionary.unit_values()[:48])
    assert part.prefixes == ((12, 48) if sae.prefixes else ())
    n_bytes = io.save(part, tmp_path)
    again = io.load(tmp_path)
    assert torch.equal(again(h).reconstruction, part(h).reconstruction) and again.prefixes == part.prefixes
    storage = count_storage(part)
    assert storage.index_bits == (64 if part.dictionary.drawn else count_storage(sae).index_bits // 2)
    assert n_bytes < io.save(sae, tmp_path / "whole") and storage == count_storage(again)
    with pytest.raises(ValueError, match="latents=48 must be in 1..47"):
        cut(part, 48)
    assert torch.equal(cut(again, 24)(h).reconstruction, cut(sae, 24)(h).reconstruction)


@pytest.mark.parametrize("n_latents", [48, 5])
def test_atoms_of_pieces_are_cut_and_their_file_is_as_large_as_counted(n_latents, tmp_path):
    arm, h = ProductQuantised(DenseTied(N, 2), 2), batch().float()
    sae = arm.derive(arm.of.build(M, seed=0), seed=0).eval()
    part = cut(sae, n_latents)
    assert torch.equal(part.dictionary.unit_values(), sae.dictionary.unit_values()[:n_latents])
    io.save(part, tmp_path)
    again = io.load(tmp_path)
    assert torch.equal(again(h).reconstruction, part(h).reconstruction)
    assert part.dictionary.value_bits == bits_a_value(n_latents, M, 4)
    assert count_storage(part) == count_storage(again)


@pytest.mark.parametrize("n_latents", [48, 5])
def test_atoms_on_paths_are_cut_and_loaded_alike(n_latents, tmp_path):
    arm, h = TrellisCoded(DenseTied(N, 2), 2), batch().float()
    sae = arm.derive(arm.of.build(M, seed=0), seed=0).eval()
    part = cut(sae, n_latents)
    assert torch.equal(part.dictionary.unit_values(), sae.dictionary.unit_values()[:n_latents])
    io.save(part, tmp_path)
    again = io.load(tmp_path)
    assert torch.equal(again(h).reconstruction, part(h).reconstruction)
    assert count_storage(part) == count_storage(again)


def test_atoms_that_are_activations_are_cut_with_their_numbers(tmp_path):
    sae = ITDA(N, K, tokens=500).build(M, seed=0)
    sae.dictionary.sources.copy_(torch.arange(N))
    io.save(cut(sae, 48), tmp_path)
    again = io.load(tmp_path)
    assert again.dictionary.sources.tolist() == list(range(48))
    assert torch.equal(again.dictionary.values, sae.dictionary.values[:48])
    assert count_storage(again) == count_storage(cut(sae, 48))


def test_above_a_threshold_a_cut_sae_has_the_codes_that_its_latents_have_among_all():
    sae, h = built(Expander(N, D, K, "batch_topk")), batch()
    sae.residual(h)
    sae.eval()
    (codes, indices), (own, latents) = sae.encode(h), cut(sae, 24).encode(h)
    all_codes = torch.zeros(len(h), N, dtype=torch.float64).scatter(1, indices, codes)
    assert torch.equal(torch.zeros(len(h), 24, dtype=torch.float64).scatter(1, latents, own), all_codes[:, :24])


def test_a_support_of_the_first_of_more_atoms_is_drawn_and_older_versions_refuse_it(tmp_path):
    sae = Banded(N, D, K).build(M, seed=0)
    io.save(cut(sae, 48), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["format"], config["support_atoms"], config["batch_topk"]) == (5, N, False)
    assert not torch.equal(Banded(48, D, K).build(M, seed=0).dictionary.support, sae.dictionary.support[:48])
    for changes in ({"support_atoms": 47}, {"support_atoms": 97}, {"support_atoms": "remove"}, {"format": 2}):
        io.save(cut(sae, 48), tmp_path)
        edit_config(tmp_path, **changes)
        with pytest.raises(io.SAEFileError, match=str(tmp_path)):
            io.load(tmp_path)


@pytest.mark.parametrize("prefixes", [[48], [12, 12, N], [0, N], ["1/4", N], "1/4", [N, 12]])
def test_prefixes_that_no_sae_can_have_are_refused_in_a_file(tmp_path, prefixes):
    io.save(Expander(N, D, K, prefixes=(12,)).build(M, seed=0), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 1 and config["prefixes"] == [12, N]  # older versions read it
    edit_config(tmp_path, prefixes=prefixes)
    with pytest.raises(io.SAEFileError, match=str(tmp_path)):
        io.load(tmp_path)


def test_prefixes_are_numbers_or_shares_in_their_shortest_form():
    assert Expander(N, D, K, prefixes=("2/16", 48)).prefixes == ("1/8", 48)
    assert prefix_sizes(("1/16", "1/3", 50), N) == (6, 32, 50, N) and prefix_sizes((), N) == ()
    for wrong in (0, "x", "0/4", "5/4", "1/0"):
        with pytest.raises(ValueError, match=f"latents={wrong} must be"):
            checked_part("latents", wrong)
    for parts in (("1/2", "1/4"), (12, "1/8"), (N,), ("1/1000",)):
        with pytest.raises(CellError, match="sae.prefixes"):
            Expander(N, D, K, prefixes=parts).sizes(M)
    with pytest.raises(CellError, match="n=8 <= 2k=8"):
        Prefix(Expander(N, D, K), 8).sizes(M)


def test_fitting_an_encoder_to_a_prefix_keeps_its_biases():
    sae = built(DenseWarmTied(N, K, "batch_topk"))
    ours, whole = inner_encoder(cut(sae, 30).encoder), inner_encoder(sae.encoder)
    assert torch.equal(ours.b_enc, whole.b_enc[:30]) and torch.equal(ours.weight, whole.weight[:30])
