"""Atoms of pieces out of a codebook: k-means finds them, training moves the codebook, a file holds a byte each."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core import io
from sae_core.arms import DenseMatched, DenseTied, Expander, FrozenRandom, ProductQuantised
from sae_core.codebook import ENTRIES, nearest_entries, pieces_of, product_quantised, weighted_entries
from sae_core.losses import reconstruction_loss

ARM = ProductQuantised(DenseTied(200, 4), 2)


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_atoms_of_few_different_pieces_come_back_exactly():
    known = gaussian(ENTRIES, 4)
    chosen = torch.randint(100, (300, 5), generator=torch.Generator().manual_seed(1))
    atoms = known[chosen].flatten(1)
    values = product_quantised(atoms, 4, seed=0).values.detach()
    # k-means may give two near pieces one entry: nearly all atoms are as they were.
    error = (values - atoms).square().sum() / atoms.square().sum()
    assert float(error) < 0.02
    few = known[chosen[:40, :1]].flatten(1)  # fewer pieces than entries
    torch.testing.assert_close(product_quantised(few, 4, seed=0).values.detach(), few)


@pytest.mark.parametrize("width, cosine", [(2, 0.995), (4, 0.94), (8, 0.78)])
def test_wider_pieces_point_less_nearly_in_the_same_direction_and_better_than_any_other_choice(width, cosine):
    atoms = torch.nn.functional.normalize(gaussian(2000, 64))
    found = product_quantised(atoms, width, seed=0)
    assert float(torch.cosine_similarity(found.values.detach(), atoms).mean()) > cosine
    pieces = pieces_of(atoms[:50], width)
    best = torch.cdist(pieces, found.codebook.detach()).argmin(1)
    assert torch.equal(nearest_entries(pieces, found.codebook.detach()), best)
    assert torch.equal(found.chosen[:50].flatten(), best)


def test_weighted_pieces_keep_products_with_activations_better_and_are_the_nearest_where_no_direction_stands_out():
    atoms = torch.nn.functional.normalize(gaussian(500, 22))
    activations = gaussian(4000, 22, seed=1) @ gaussian(22, 22, seed=2) / 5  # some directions are much larger
    moments = activations.T @ activations / len(activations)
    nearest = product_quantised(atoms, 4, seed=0)
    weighted = product_quantised(atoms, 4, seed=0, moments=moments)
    assert torch.equal(nearest.codebook, weighted.codebook)

    def lost(dictionary, rows):
        return float(((dictionary.values.detach() - atoms) @ rows.T).square().sum())

    assert lost(weighted, activations) < 0.8 * lost(nearest, activations)
    assert lost(nearest, torch.eye(22)) < lost(weighted, torch.eye(22)) < 1.5 * lost(nearest, torch.eye(22))
    same = weighted_entries(atoms, nearest.codebook.detach(), 3 * torch.eye(22))
    assert torch.equal(same[:, :-1], nearest.chosen[:, :-1])  # of the last piece only the two values in use count


def test_an_arm_of_weighted_pieces_chooses_them_for_the_sample_and_the_nearest_without_one():
    of, sample = ARM.of.build(16, seed=0), gaussian(800, 16, seed=3) * torch.linspace(0.1, 3, 16)
    arm = ProductQuantised(ARM.of, 2, pieces="weighted")
    assert arm.name == "dense_tied-2bit_pq_weighted" and arm.sample_tokens > 0 == ARM.sample_tokens
    nearest = ARM.derive(of, seed=0).dictionary.chosen
    assert torch.equal(arm.derive(of, seed=0).dictionary.chosen, nearest)
    assert not torch.equal(arm.derive(of, seed=0, sample=sample).dictionary.chosen, nearest)
    with pytest.raises(ValueError, match="sae.pieces=best must be nearest or weighted"):
        ProductQuantised(ARM.of, 2, pieces="best")


def test_pieces_that_do_not_divide_an_atom_are_filled_up_with_zeros():
    atoms = gaussian(30, 10)
    assert pieces_of(atoms, 4).shape == (90, 4) and not pieces_of(atoms, 4)[2::3, 2:].any()
    assert product_quantised(atoms, 4, seed=0).values.shape == (30, 10)


def test_the_start_is_that_of_the_trained_sae_and_training_moves_the_codebook_and_not_the_choice():
    of = ARM.of.build(16, seed=0)
    with torch.no_grad():
        of.encoder.b_enc.normal_()
    sae, h = ARM.derive(of, seed=0), gaussian(64, 16, seed=2)
    assert torch.equal(sae.encoder.b_enc, of.encoder.b_enc)
    assert float(torch.cosine_similarity(sae.dictionary.values, of.dictionary.values).mean().detach()) > 0.9
    chosen, codebook = sae.dictionary.chosen.clone(), sae.dictionary.codebook.detach().clone()
    optimizer, losses = torch.optim.Adam(sae.parameters(), lr=1e-2), []
    for _ in range(50):
        optimizer.zero_grad()
        loss = reconstruction_loss(sae.residual(h).residual)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(sae.dictionary.chosen, chosen) and not torch.equal(sae.dictionary.codebook, codebook)


@pytest.mark.parametrize("rounded_in, format_of_file", [("neurons", 5), ("fourier", 6)])
def test_pieces_in_a_basis_k_on_average_and_nested_prefixes_are_kept_in_the_file(tmp_path, rounded_in, format_of_file):
    arm = ProductQuantised(DenseTied(200, 4, "batch_topk", ("1/4",)), 2, rounded_in=rounded_in)
    trained, h = arm.of.build(16, seed=0), gaussian(64, 16, seed=2)
    trained(h)  # makes a threshold
    sae = arm.derive(trained.eval(), seed=0)
    assert sae.prefixes == trained.prefixes and float(sae.encoder.threshold) == float(trained.encoder.threshold) > 0
    assert (
        float(torch.cosine_similarity(sae.dictionary.dense_atoms(), trained.dictionary.dense_atoms()).mean().detach())
        > 0.9
    )
    io.save(sae, tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["format"] == format_of_file
    for again in (io.load(tmp_path), io.load(tmp_path, keep_packed=True)):
        torch.testing.assert_close(again(h).reconstruction, sae.eval()(h).reconstruction)
        assert str(again.dictionary.basis.name) == rounded_in


def test_a_dead_latent_is_aimed_as_nearly_as_the_codebook_allows():
    sae = ARM.build(16, seed=0)
    aimed, directions = torch.tensor([3, 50]), gaussian(2, 16, seed=4)
    before = sae.dictionary.values.detach().clone()
    sae.dictionary.set_atoms(aimed, directions)
    after = sae.dictionary.values.detach()
    assert (torch.cosine_similarity(after[aimed], directions) > 0.8).all()
    others = torch.ones(200, dtype=torch.bool).index_fill(0, aimed, False)
    assert torch.equal(after[others], before[others])


@pytest.mark.parametrize(
    "of, bits, said",
    [
        (Expander(64, 3, 4), 2, "sae.of=expander must have dense atoms"),
        (FrozenRandom(64, 3, 4), 2, "sae.of=frozen_random cannot be quantised"),
        (DenseTied(64, 4), 8, "sae.bits=8 must be 4, 2 or 1"),
        (DenseMatched(640, 3, 4), 1.58, "sae.bits=1.58 must be 4, 2 or 1"),
    ],
)
def test_an_arm_that_cannot_be_cut_into_pieces_is_an_error(of, bits, said):
    with pytest.raises(ValueError, match=said):
        ProductQuantised(of, bits)


@pytest.mark.parametrize(
    "changes",
    [{"codebook": 2}, {"codebook": 0}, {"codebook": "4"}, {"codebook": None}, {"format": 1}, {"value_bits": 2}],
)
def test_a_config_that_does_not_fit_a_codebook_is_an_error(tmp_path, changes):
    io.save(ARM.build(16, seed=0), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 4 and config["codebook"] == 4
    (tmp_path / "cfg.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(io.SAEFileError, match=str(tmp_path)):
        io.load(tmp_path)


def test_a_file_holds_a_byte_a_piece(tmp_path):
    io.save(ARM.build(16, seed=0), tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    assert tensors["chosen"].dtype == torch.uint8 and tensors["chosen"].shape == (200, 4)
    assert tensors["codebook"].shape == (256, 4) and "values" not in tensors
    save_file({**tensors, "chosen": tensors["chosen"].long()}, tmp_path / "sae.safetensors")
    with pytest.raises(io.SAEFileError, match="asks for another chosen"):
        io.load(tmp_path)
