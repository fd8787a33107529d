"""Atoms of whole numbers: they point nearly the same way, and quantising leaves its source alone."""

from __future__ import annotations

import pytest
import torch

from sae_core.arms import DenseWarmTied, Expander
from sae_core.quantised import quantised
from sae_core.rounding import whole_numbers


@pytest.mark.parametrize("bits, largest, cosine", [(8, 127, 0.9999), (4, 7, 0.985)])
def test_whole_numbers_fit_their_bits_and_point_in_nearly_the_same_direction(bits, largest, cosine):
    values = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-20, 20, 500)[:, None]
    numbers = whole_numbers(values, bits)
    assert torch.equal(numbers, numbers.round()) and numbers.abs().max() == largest
    values = values / values.abs().amax(1, keepdim=True)
    found = torch.cosine_similarity(numbers.double(), values.double())
    assert float(found.min()) > cosine
    plain = (values * largest).round()
    assert (found >= torch.cosine_similarity(plain.double(), values.double()) - 1e-6).all()  # clipping never hurts
    assert bits == 8 or float(found.mean() - torch.cosine_similarity(plain.double(), values.double()).mean()) > 5e-4


def test_values_that_are_whole_numbers_up_to_a_factor_stay_exact():
    numbers = torch.tensor([[7.0, -3.0, 0.0], [0.0, 0.0, 0.0], [-7.0, 7.0, 1.0]])
    assert torch.equal(whole_numbers(numbers / 3, 4), numbers)


def test_quantising_makes_a_copy_and_leaves_its_source_unchanged():
    sae = Expander(64, 5, 4).build(16, seed=0)
    before = sae.dictionary.values.clone()
    other = quantised(sae, 4)
    assert torch.equal(sae.dictionary.values, before) and sae.dictionary.value_bits == 32
    assert other.dictionary.value_bits == 4 and not torch.equal(other.dictionary.values, before)
    h = torch.randn(50, 16)
    assert (other(h).reconstruction - sae(h).reconstruction).norm() < 0.3 * sae(h).reconstruction.norm()


def test_an_sae_or_a_number_of_bits_that_cannot_be_quantised_is_an_error():
    with pytest.raises(ValueError, match="weights of its own"):
        quantised(DenseWarmTied(64, 4).build(16, 0), 8)
    with pytest.raises(ValueError, match="bits=5"):
        quantised(Expander(64, 5, 4).build(16, 0), 5)
