"""Supports: each is regular, has the properties that it is made for, and stays the same bit for bit."""

from __future__ import annotations

import hashlib

import pytest
import torch

from sae_core.sizes import CellError, check_degree, check_sparsity
from sae_core.supports import (
    SUPPORTS,
    balanced_support,
    banded_support,
    clustered_support,
    expander_support,
    top_magnitude_support,
)


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("d_in, n, d", [(16, 64, 3), (7, 5, 7), (31, 4, 1), (512, 1000, 7), (50, 3, 40), (9, 40, 8)])
def test_every_support_is_regular_sorted_distinct_and_follows_from_its_seed(name, d_in, n, d):
    support = SUPPORTS[name](d_in, n, d, 3)
    assert support.shape == (n, d) and support.dtype == torch.int64
    assert (support[:, 1:] > support[:, :-1]).all() and support.min() >= 0 and support.max() < d_in
    assert torch.equal(support, SUPPORTS[name](d_in, n, d, 3))


@pytest.mark.parametrize("name", SUPPORTS)
@pytest.mark.parametrize("d_in, n, d, message", [(8, 4, 0, "d=0"), (8, 4, 9, r"1\.\.8"), (8, 0, 2, "n=0")])
def test_sizes_out_of_range_are_named(name, d_in, n, d, message):
    with pytest.raises(ValueError, match=message):
        SUPPORTS[name](d_in, n, d, 0)


@pytest.mark.parametrize("n, k, message", [(0, 1, "n=0 must be at least 1"), (-3, 1, "n=-3"), (9, 0, r"k=0 .*1\.\.9")])
def test_a_sparsity_out_of_range_is_a_mistake(n, k, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_sparsity(n, k)
    assert not isinstance(caught.value, CellError)


def test_a_cell_of_sizes_that_do_not_go_together_is_one_to_leave_out():
    check_sparsity(9, 4)
    with pytest.raises(CellError, match="n=8 <= 2k=8: 4-sparse codes of 8 atoms cannot be unique"):
        check_sparsity(8, 4)
    check_degree(8, 8)
    with pytest.raises(CellError, match=r"d=9 must be in 1\.\.8"):
        check_degree(8, 9)


@pytest.mark.parametrize("name", ["expander_balanced", "clustered"])
def test_other_supports_are_bit_for_bit_as_first_published(name):
    """A saved SAE holds only name and seed, so these supports must never change."""
    support = SUPPORTS[name](256, 2048, 7, 0)
    assert hashlib.sha256(support.numpy().astype("<i8").tobytes()).hexdigest() == GOLDEN[name]


def shared_pairs(support, d_in):
    """How often two atoms share a pair of rows, and the least number possible.

    It is the sum over pairs of rows of C(c, 2), c the number of atoms that have both; it is least where all c are as
    equal as so many pairs of rows allow.
    """
    n, d = support.shape
    together = torch.zeros(d_in, d_in, dtype=torch.int64)
    for rows in support:
        together[rows[:, None], rows] += 1
    upper = together[torch.triu(torch.ones(d_in, d_in, dtype=torch.bool), 1)]
    each, over = divmod(n * d * (d - 1) // 2, len(upper))
    least = len(upper) * each * (each - 1) // 2 + over * each
    return int((upper * (upper - 1)).sum()) // 2, least


@pytest.mark.parametrize("d_in, n, d, excess", [(256, 2048, 3, 12), (256, 2048, 7, 500), (64, 512, 20, 2000)])
def test_a_balanced_support_uses_rows_equally_and_pairs_of_rows_nearly_so(d_in, n, d, excess):
    """It has 6, 247 and 1,150 shared pairs more than the least number; a random support has 585, 18,029 and 22,000."""
    support = balanced_support(d_in, n, d, seed=0)
    counts = support.flatten().bincount(minlength=d_in)
    assert int(counts.max() - counts.min()) <= 1
    found, least = shared_pairs(support, d_in)
    at_random, _ = shared_pairs(expander_support(d_in, n, d, seed=0), d_in)
    assert found - least <= excess < (at_random - least) / 5


@pytest.mark.parametrize("d_in, n, d", [(10, 7, 3), (5, 9, 5), (6, 4, 1), (11, 30, 10)])
def test_balanced_row_degrees_are_equal_to_within_one_for_any_sizes(d_in, n, d):
    for seed in range(5):
        counts = balanced_support(d_in, n, d, seed).flatten().bincount(minlength=d_in)
        assert int(counts.max() - counts.min()) <= 1


def test_banded_rows_are_contiguous_and_wrap_around_the_end():
    assert banded_support(6, 6, 3).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [0, 4, 5], [0, 1, 5]]
    assert banded_support(6, 3, 2)[:, 0].tolist() == [0, 2, 4]


def test_clustered_atoms_share_all_rows_or_none():
    support = clustered_support(23, 200, 5, seed=1)
    assert len(support.unique(dim=0)) == 4 and len(support.unique()) == 20


def test_top_magnitudes_are_those_sorted_by_hand():
    atoms = torch.tensor([[0.1, -3.0, 2.0, 0.0], [1.0, 1.0, -1.0, 1.0]])
    assert top_magnitude_support(atoms, 2).tolist() == [[1, 2], [0, 1]]
    with pytest.raises(ValueError, match="d=5"):
        top_magnitude_support(atoms, 5)


@pytest.mark.parametrize("d_in, n, d", [(16, 64, 3), (7, 5, 7), (31, 4, 1), (512, 4096, 7), (50, 3, 40)])
def test_an_expander_support_is_left_regular_sorted_distinct_and_in_range(d_in, n, d):
    support = expander_support(d_in, n, d, seed=1)
    assert support.shape == (n, d) and support.dtype == torch.int64
    assert (support[:, 1:] > support[:, :-1]).all()
    assert support.min() >= 0 and support.max() < d_in


@pytest.mark.parametrize("d_in, n, d", [(64, 64, 1), (100, 40, 3), (256, 256, 1), (30, 10, 3)])
def test_every_row_is_covered_when_there_are_enough_entries(d_in, n, d):
    assert len(expander_support(d_in, n, d, seed=0).unique()) == d_in


def test_too_few_entries_cover_as_many_rows_as_there_are_entries():
    assert len(expander_support(100, 10, 3, seed=0).unique()) == 30


def test_rows_are_drawn_uniformly():
    support = expander_support(20, 20_000, 5, seed=2)
    counts = torch.bincount(support.flatten(), minlength=20).double()
    chi2 = float(((counts - 5000) ** 2 / 5000).sum())
    assert chi2 < 43.8  # 99.9 % quantile for 19 degrees of freedom


def test_the_expander_support_is_bit_for_bit_as_first_published():
    """A saved SAE holds only the seed, so this support must never change."""
    support = expander_support(512, 4096, 7, seed=0)
    digest = hashlib.sha256(support.numpy().astype("<i8").tobytes()).hexdigest()
    assert support[0].tolist() == GOLDEN_FIRST_ATOM
    assert digest == GOLDEN_DIGEST


GOLDEN_FIRST_ATOM = [8, 20, 136, 310, 322, 414, 466]
GOLDEN_DIGEST = "293fec71b48d21bca59d10f75b3dc536eb305a35176bb399e367fcf9f7f83742"
GOLDEN = {
    "expander_balanced": "e68f2194d063f27c71b055106da59b15d1f9e1ab9966fe713cb174889b3e420e",
    "clustered": "d1a872d07c98b7cf2c8f6a296a9042fdec5fff1a7c5f1e339c94abc9d3bd485c",
}
