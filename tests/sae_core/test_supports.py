from __future__ import annotations

import hashlib

import pytest
import torch

from sae_core.supports import expander_support


@pytest.mark.parametrize("d_in, n, d", [(16, 64, 3), (7, 5, 7), (31, 4, 1), (512, 4096, 7), (50, 3, 40)])
def test_left_regular_sorted_distinct_and_in_range(d_in, n, d):
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


def test_bit_for_bit_as_first_published():
    """Golden: a saved SAE holds only the seed, so this must never change."""
    support = expander_support(512, 4096, 7, seed=0)
    digest = hashlib.sha256(support.numpy().astype("<i8").tobytes()).hexdigest()
    assert support[0].tolist() == GOLDEN_FIRST_ATOM
    assert digest == GOLDEN_DIGEST


@pytest.mark.parametrize("d_in, n, d, message", [(8, 4, 0, "d=0"), (8, 4, 9, r"1\.\.8"), (8, 0, 2, "n=0")])
def test_sizes_out_of_range(d_in, n, d, message):
    with pytest.raises(ValueError, match=message):
        expander_support(d_in, n, d, 0)


GOLDEN_FIRST_ATOM = [8, 20, 136, 310, 322, 414, 466]
GOLDEN_DIGEST = "293fec71b48d21bca59d10f75b3dc536eb305a35176bb399e367fcf9f7f83742"
