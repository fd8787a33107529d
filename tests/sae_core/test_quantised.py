"""SAEs of whole numbers: atoms point nearly the same way, quantising leaves its source alone, training uses them."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from sae_core import io
from sae_core.arms import (
    PCA,
    DenseLowRank,
    DenseRandInit,
    DenseTied,
    DenseWarmTied,
    Dynamic,
    Expander,
    FewBits,
    FrozenRandom,
    Kron,
    Quantised,
)
from sae_core.bases import Fourier, Neurons
from sae_core.losses import reconstruction_loss
from sae_core.quantised import keep_rounded, quantised, turned
from sae_core.rounding import GRIDS, grid_of, straight_through, straight_through_rows, whole_numbers

DENSE = DenseTied(200, 4)
NUMBERS = {2: [-3, -1, 1, 3], 1.58: [-1, 0, 1], 1: [-1, 1]}


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "bits, largest, cosine",
    [
        (16, 32767, 0.999999),
        (8, 127, 0.9999),
        (6, 31, 0.999),
        (5, 15, 0.996),
        (4, 7, 0.985),
        (3, 3, 0.95),
        (2, 3, 0.9),
        (1.58, 1, 0.84),
    ],
)
def test_whole_numbers_fit_their_bits_and_point_in_nearly_the_same_direction(bits, largest, cosine):
    values = gaussian(500, 64) * torch.logspace(-20, 20, 500)[:, None]
    numbers = whole_numbers(values, bits)
    assert torch.equal(numbers, numbers.round()) and numbers.abs().max() == largest
    values = values / values.abs().amax(1, keepdim=True)
    found = torch.cosine_similarity(numbers.double(), values.double())
    assert float(found.min()) > cosine
    plain = grid_of(bits).nearest(values * largest)
    assert (found >= torch.cosine_similarity(plain.double(), values.double()) - 1e-6).all()  # clipping never hurts
    assert bits >= 5 or float(found.mean() - torch.cosine_similarity(plain.double(), values.double()).mean()) > 5e-4


def test_whole_numbers_of_8_and_4_bits_are_those_of_earlier_versions():
    values = gaussian(200, 32, seed=5) ** 3
    for bits, total in ((8, 103_994), (4, 5_616)):
        numbers = whole_numbers(values, bits)
        assert int(numbers.abs().sum()) == total and torch.equal(whole_numbers(-values, bits), -numbers)


def test_values_that_are_whole_numbers_up_to_a_factor_stay_exact():
    numbers = torch.tensor([[7.0, -3.0, 0.0], [0.0, 0.0, 0.0], [-7.0, 7.0, 1.0]])
    assert torch.equal(whole_numbers(numbers / 3, 4), numbers)
    for bits, of in NUMBERS.items():
        every = torch.tensor([row for row in product(of, repeat=3) if max(map(abs, row)) == max(of)]).float()
        found = whole_numbers(every / 3, bits)
        assert torch.allclose(torch.nn.functional.normalize(found), torch.nn.functional.normalize(every))


@pytest.mark.parametrize("bits", NUMBERS)
def test_few_bits_find_nearly_the_best_of_all_whole_numbers(bits):
    values = gaussian(60, 6, seed=1)
    every = torch.tensor(list(product(NUMBERS[bits], repeat=6))).float()
    every = torch.nn.functional.normalize(every[every.any(1)])
    best = (torch.nn.functional.normalize(values) @ every.T).amax(1)
    found = torch.cosine_similarity(whole_numbers(values, bits), values)
    assert (found <= best + 1e-6).all() and float((best - found).max()) < 0.02 and float((best - found).mean()) < 0.001


@pytest.mark.parametrize("bits", GRIDS)
def test_rounding_in_training_takes_numbers_of_the_grid_and_the_best_step_for_gaussian_values(bits):
    values, grid = gaussian(400, 512), grid_of(bits)
    numbers = straight_through(values * torch.logspace(-10, 10, 400)[:, None], grid)
    assert set(numbers.unique().tolist()) <= set(map(float, NUMBERS.get(bits, range(-grid.largest, grid.largest + 1))))

    def cosine(unit):
        return float(torch.cosine_similarity(straight_through(values, grid._replace(unit=unit)), values).mean())

    own = cosine(grid.unit)
    assert bits == 16 or all(cosine(grid.unit * factor) <= own + 2e-5 for factor in (0.5, 0.8, 0.9, 1.1, 1.25, 2))
    assert (
        own > {16: 0.999999, 8: 0.9999, 6: 0.9994, 5: 0.998, 4: 0.993, 3: 0.976, 2: 0.938, 1.58: 0.899, 1: 0.797}[bits]
    )


def test_a_gradient_passes_a_rounding_as_if_there_were_none():
    values, upstream = gaussian(5, 40).double().requires_grad_(), gaussian(5, 40, seed=1).double()
    for grid in GRIDS.values():
        step = grid.unit * values.detach().pow(2).mean(1, keepdim=True).sqrt()
        (found,) = torch.autograd.grad(straight_through(values, grid), values, upstream)
        torch.testing.assert_close(found, upstream / step)


def test_quantising_makes_a_copy_and_leaves_its_source_unchanged():
    sae = Expander(64, 5, 4).build(16, seed=0)
    before = sae.dictionary.values.clone()
    other = quantised(sae, 4)
    assert torch.equal(sae.dictionary.values, before) and sae.dictionary.value_bits == 32
    assert other.dictionary.value_bits == 4 and not torch.equal(other.dictionary.values, before)
    h = torch.randn(50, 16)
    assert (other(h).reconstruction - sae(h).reconstruction).norm() < 0.3 * sae(h).reconstruction.norm()


def test_an_sae_or_a_number_of_bits_that_cannot_be_quantised_is_an_error():
    with pytest.raises(ValueError, match="its latents share the encoder's rows"):
        quantised(Kron(64, 4).build(16, 0), 8)
    for bits in (7, 1.6, True, 0, float("nan")):
        with pytest.raises(ValueError, match=f"bits={bits} must be 16, 8, 6, 5, 4, 3, 2, 1.58 or 1"):
            quantised(Expander(64, 5, 4).build(16, 0), bits)


@pytest.mark.parametrize(
    "of, settings, said",
    [
        (Kron(64, 4), {}, "sae.of=kron cannot be quantised"),
        (DenseWarmTied(64, 4), {"encoder_bits": 7}, "sae.encoder_bits=7 must be 16, 8, 6, 5, 4, 3, 2, 1.58 or 1"),
        (FrozenRandom(64, 5, 4), {}, "sae.of=frozen_random cannot be quantised"),
        (Quantised(Expander(64, 5, 4), 8), {}, "sae.of=expander-8bit cannot be quantised"),
        (FewBits(Expander(64, 5, 4), 8), {}, "sae.of=expander-8bit_trained cannot be quantised"),
        (PCA(64, 3), {}, "sae.of=pca is not trained by gradient"),
        (Expander(64, 5, 4), {"bits": 7}, "sae.bits=7 must be 16, 8, 6, 5, 4, 3, 2, 1.58 or 1"),
        (Expander(64, 5, 4), {"rounded_from": 1}, "sae.rounded_from=1 must be in 0..1, 1 excluded"),
        (Expander(64, 5, 4), {"rounded_from": -0.1}, "sae.rounded_from=-0.1 must be"),
        (Expander(64, 5, 4), {"rounded_in": "fourier"}, "sae.rounded_in=fourier must be neurons for atoms that are"),
        (DenseTied(64, 4), {"rounded_in": "reflections4"}, "sae.rounded_in=reflections4 must be neurons or fourier$"),
        (DenseTied(64, 4), {"rounded_in": "no"}, "sae.rounded_in=no must be neurons or fourier$"),
    ],
)
def test_an_arm_that_cannot_be_trained_with_few_bits_is_an_error(of, settings, said):
    with pytest.raises(ValueError, match=said):
        FewBits(of, **{"bits": 2, **settings})


def test_one_width_has_one_name_however_it_is_written():
    assert FewBits(Expander(64, 5, 4), 2.0).label == "expander-2bit_trained"
    assert Quantised(Expander(64, 5, 4), 8.0) == Quantised(Expander(64, 5, 4), 8)
    assert isinstance(Quantised(Expander(64, 5, 4), 8.0).bits, int)
    own = DenseWarmTied(64, 4)
    assert FewBits(own, 2, encoder_bits=2.0) == FewBits(own, 2)
    assert FewBits(own, 2).label == "dense_warmtied-2bit_trained"
    assert FewBits(DenseTied(64, 4), 2, encoder_bits=8) == FewBits(DenseTied(64, 4), 2)  # which has no such weights
    assert FewBits(own, 2, encoder_bits=4.0).label == "dense_warmtied-2bit_trained_enc4"


@pytest.mark.parametrize("bits", GRIDS)
def test_each_row_of_an_encoder_is_as_near_to_what_it_was_as_its_numbers_allow(bits):
    sae = DenseRandInit(64, 4).build(256, seed=0)
    sae.encoder.weight.data *= torch.linspace(0.1, 10, 64)[:, None]  # rows differ in length, which counts
    other = quantised(sae, 8, encoder_bits=bits)
    before, after = sae.encoder.weight.detach(), other.encoder.rows().detach()
    assert other.encoder.weight_bits == grid_of(bits).stored_bits and other.dictionary.value_bits == 8
    cosine = torch.cosine_similarity(before, after)
    assert (
        float(cosine.mean())
        > {16: 0.999999, 8: 0.9999, 6: 0.999, 5: 0.997, 4: 0.99, 3: 0.97, 2: 0.93, 1.58: 0.88, 1: 0.78}[bits]
    )
    # The factor is that of least squares: what is left is at a right angle to the row.
    torch.testing.assert_close((after.norm(dim=1) / before.norm(dim=1)), cosine, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", GRIDS)
def test_the_gradient_of_a_rounded_row_is_that_of_the_row_it_is_used_as(bits):
    values = gaussian(6, 64).requires_grad_()
    used, weights = straight_through_rows(values, grid_of(bits)), gaussian(6, 64, seed=7)
    (used * weights).sum().backward()
    assert torch.equal(values.grad, weights)
    used, values = used.detach(), values.detach()
    cosine = torch.cosine_similarity(used, values)
    assert float(cosine.min()) > 0.7
    torch.testing.assert_close(used.norm(dim=1) / values.norm(dim=1), cosine, rtol=0.25, atol=0)  # nearly the best


def test_dense_atoms_in_another_basis_are_the_same_sae():
    sae, h, basis = DenseTied(64, 4).build(20, seed=0), gaussian(30, 20), Fourier(20, seed=3)
    other = turned(sae, basis)
    assert not torch.allclose(other.dictionary.values, sae.dictionary.values) and other.dictionary.basis is basis
    assert torch.equal(other(h).indices, sae(h).indices) and isinstance(sae.dictionary.basis, Neurons)
    torch.testing.assert_close(other(h).reconstruction, sae(h).reconstruction, rtol=1e-5, atol=1e-6)
    for built in (other, Expander(64, 5, 4).build(20, seed=0), DenseLowRank(64, 5, 4).build(20, seed=0)):
        with pytest.raises(ValueError, match="only dense atoms in the neurons' basis"):
            turned(built, basis)


def test_neurons_that_are_far_larger_than_the_rest_cost_a_fourier_basis_nothing():
    values = gaussian(200, 256)
    values[:, :2] *= 8
    sae = DenseTied(200, 4).build(256, seed=0)
    sae.dictionary.values.data.copy_(values)

    @torch.no_grad()
    def cosine(other):
        return float(torch.cosine_similarity(other.dictionary.dense_atoms(), sae.dictionary.dense_atoms()).mean())

    found = {basis: cosine(Quantised(DENSE, 2, basis).derive(sae)) for basis in ("neurons", "fourier")}
    assert found["neurons"] < 0.85 and found["fourier"] > 0.93


def test_an_sae_rounded_in_a_fourier_basis_says_so_in_its_label_and_its_file(tmp_path):
    arm = Quantised(DENSE, 2, "fourier")
    assert arm.label == "dense_tied-2bit_fourier" and arm.layout(256).basis == "fourier"
    sae, h = arm.derive(DENSE.build(256, seed=0), seed=5), gaussian(20, 256)
    io.save(sae, tmp_path)
    loaded = io.load(tmp_path)
    assert str(loaded.dictionary.basis.name) == "fourier" and loaded.dictionary.basis.seed == 5
    assert torch.equal(loaded(h).reconstruction, sae(h).reconstruction)


def trained(arm, steps=40):
    """An SAE of the arm after some steps of a loop of one's own, and activations."""
    sae, h = arm.build(16, seed=0), gaussian(64, 16, seed=2)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        reconstruction_loss(sae.residual(h).residual).backward()
        optimizer.step()
    return sae, h


@pytest.mark.parametrize("bits", GRIDS)
@pytest.mark.parametrize(
    "of", [Expander(64, 5, 4), DenseTied(64, 4), Dynamic(64, 5, 4, encoder="mp_refit"), DenseRandInit(64, 4)]
)
def test_what_training_used_is_what_its_end_keeps_and_a_file_holds(of, bits, tmp_path):
    sae, h = trained(FewBits(of, bits))
    last, floats = sae(h), sae.dictionary.values.detach().clone()
    with pytest.raises(ValueError, match="call sae_core.keep_rounded first"):
        io.save(sae, tmp_path)
    underneath = keep_rounded(sae, bits)
    kept = sae.dictionary.values
    assert torch.equal(kept, kept.round()) and sae.dictionary.value_bits == grid_of(bits).stored_bits
    assert torch.equal(sae(h).reconstruction, last.reconstruction) and torch.equal(sae(h).indices, last.indices)
    assert torch.equal(underneath.dictionary.values, floats) and underneath.dictionary.value_bits == 32
    io.save(sae, tmp_path)
    assert torch.equal(io.load(tmp_path)(h).reconstruction, last.reconstruction)


@pytest.mark.parametrize("arm", [FewBits(Expander(64, 5, 4), 2), FewBits(DenseTied(64, 4), 1.58)])
def test_the_atoms_that_are_compared_during_training_are_the_rounded_ones(arm):
    sae, _ = trained(arm, steps=3)
    dictionary = sae.dictionary
    numbers = straight_through(dictionary.values, dictionary.rounded_to).detach()
    unit = torch.nn.functional.normalize(numbers)
    torch.testing.assert_close(dictionary.unit_values().detach(), unit)
    found = dictionary.dense_atoms(slice(8, 16)).detach()
    expected = unit[8:16]
    if dictionary.support is not None:
        expected = torch.zeros(8, 16).scatter(1, dictionary.support[8:16], expected)
    torch.testing.assert_close(found, expected)
