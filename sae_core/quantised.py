"""Fewer bits a value: atoms as whole numbers.

An atom is used at unit norm, so its whole numbers need no scale beside them: `bits` a value are all that is stored.
"""

from __future__ import annotations

import copy

import torch

from sae_core.sae import SAE

BITS = (4, 8)
_STEPS = torch.linspace(0.3, 1.0, 29)  # of the largest magnitude: where the largest whole number may lie


def check_bits(bits: int) -> None:
    """Raise ValueError unless values can be kept in `bits` bits."""
    if bits not in BITS:
        raise ValueError(f"bits={bits} must be {' or '.join(map(str, BITS))}")


@torch.no_grad()
def quantised(sae: SAE, bits: int) -> SAE:
    """A copy of `sae` whose dictionary holds whole numbers of `bits` bits; biases stay as they are.

    Raises:
        ValueError: bits other than 4 and 8, or an encoder with weights of its own.
    """
    check_bits(bits)
    if not sae.tied:
        raise ValueError("values are quantised where the encoder is tied; this one has weights of its own")
    other = copy.deepcopy(sae)
    other.dictionary.values.copy_(whole_numbers(sae.dictionary.values, bits))
    other.dictionary.value_bits = bits
    return other


def whole_numbers(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Each row of values (n, d) as whole numbers in -q..q, q = 2^(bits-1) - 1, in values' dtype.

    The row v becomes clamp(round(q * v / (c * max |v|))), c the one of `_STEPS` with the largest cosine to v: at
    few bits it pays to clip the largest values.
    """
    largest = 2 ** (bits - 1) - 1
    values = values / values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    best, cosine = torch.zeros_like(values), values.new_full((len(values), 1), -1.0)
    for clip in _STEPS.flip(0).tolist():  # from no clipping on, which wins a tie
        rounded = (values * (largest / clip)).round().clamp(-largest, largest)
        found = torch.cosine_similarity(rounded.double(), values.double()).to(values.dtype)[:, None]
        better = found > cosine
        best, cosine = torch.where(better, rounded, best), torch.where(better, found, cosine)
    return best
