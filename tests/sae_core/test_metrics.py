"""Reconstruction measures against their definitions written out, and against values known by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sae_core.metrics import ReconstructionSums, ce_recovered


def measures(h, reconstruction, codes=None, indices=None, n_latents=4, pieces=1):
    codes = torch.ones(len(h), 1) if codes is None else codes
    indices = torch.zeros(len(h), 1, dtype=torch.int64) if indices is None else indices
    sums = ReconstructionSums(h.shape[1], n_latents)
    for part in torch.arange(len(h)).chunk(pieces):
        sums.add(h[part], reconstruction[part], codes[part], indices[part])
    return sums.result()


def test_measures_are_their_definitions_written_out():
    torch.manual_seed(0)
    h, r = torch.randn(50, 6, dtype=torch.float64) + 2, torch.randn(50, 6, dtype=torch.float64)
    got = measures(h, r, pieces=7)
    assert got.relative_error == pytest.approx(float(((h - r).norm(dim=1) / h.norm(dim=1)).mean()))
    total = float((h - h.mean(0)).square().sum())
    assert got.fvu == pytest.approx(float((h - r).square().sum()) / total)
    residual = h - r
    assert got.explained_variance == pytest.approx(1 - float((residual - residual.mean(0)).square().sum()) / total)
    assert got.tokens == got.dead_window_tokens == 50


def test_reconstructing_the_mean_has_fvu_1_and_the_truth_fvu_0():
    h = torch.randn(40, 5)
    assert measures(h, h.mean(0).expand_as(h)).fvu == pytest.approx(1.0, abs=1e-5)
    assert measures(h, h).fvu == 0.0


def test_zero_codes_are_not_active_and_silent_latents_are_dead():
    h = torch.randn(2, 3)
    codes = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    indices = torch.tensor([[0, 3], [1, 0]])
    got = measures(h, h, codes, indices)
    assert got.l0 == 1.5
    assert got.dead_fraction == 0.5  # latents 2 and 3


def test_a_zero_activation_does_not_make_nan():
    h = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert measures(h, h).relative_error == 0.0
    assert math.isfinite(measures(h, h + 1).relative_error)


def test_ce_recovered_is_one_for_clean_and_zero_for_ablated():
    assert ce_recovered(3.0, 3.0, 9.0) == 1.0
    assert ce_recovered(9.0, 3.0, 9.0) == 0.0
    assert ce_recovered(12.0, 3.0, 9.0) == -0.5
