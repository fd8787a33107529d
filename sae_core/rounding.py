"""Vectors as whole numbers of few bits, where only their direction counts."""

from __future__ import annotations

import torch

_CLIPS = torch.linspace(0.3, 1.0, 29)  # shares of the largest magnitude that become the largest whole number


def whole_numbers(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Return each row of values (n, d) as whole numbers in -q..q, q = 2^(bits-1) - 1, in values' dtype.

    The row v becomes clamp(round(q * v / (c * max |v|))), c being the share in `_CLIPS` that gives the largest cosine
    to v: with few bits it pays to clip the largest values.
    """
    largest = 2 ** (bits - 1) - 1
    values = values / values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    best, cosine = torch.zeros_like(values), values.new_full((len(values), 1), -1.0)
    for clip in _CLIPS.flip(0).tolist():  # no clipping comes first, so that it wins a tie
        rounded = (values * (largest / clip)).round().clamp(-largest, largest)
        found = torch.cosine_similarity(rounded.double(), values.double()).to(values.dtype)[:, None]
        better = found > cosine
        best, cosine = torch.where(better, rounded, best), torch.where(better, found, cosine)
    return best
