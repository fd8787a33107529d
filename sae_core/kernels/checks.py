"""Checks of the tensors that backends are given.

Compiled kernels trust their input, so wrong shapes, dtypes and devices must end before any pointer is taken.
`autograd.Kernels` says the shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_atoms(values: Tensor, support: Tensor | None, d_in: int, **floats: Tensor) -> None:
    """Raise ValueError unless values and support make atoms in R^d_in, and `floats` are of their dtype and device."""
    if values.ndim != 2 or not values.is_floating_point() or (support is None and values.shape[1] > d_in):
        columns = "degree" if support is not None else f"at most d_in={d_in}"
        raise ValueError(f"values {tuple(values.shape)} of {values.dtype} must be floats (n_latents, {columns})")
    if support is not None and (
        support.shape != values.shape or support.dtype != torch.int64 or support.device != values.device
    ):
        raise ValueError(
            f"support {tuple(support.shape)} of {support.dtype} on {support.device} must be int64 "
            f"{tuple(values.shape)} on {values.device}, as values"
        )
    for name, tensor in floats.items():
        if tensor.dtype != values.dtype or tensor.device != values.device:
            raise ValueError(
                f"{name} of {tensor.dtype} on {tensor.device} must be {values.dtype} on {values.device}, as values"
            )


def check_selection(x: Tensor, values: Tensor, support: Tensor | None, k: int, **floats: Tensor) -> None:
    """Raise ValueError unless k of the atoms can be selected for each token of x."""
    check_atoms(values, support, x.shape[-1], x=x, **floats)
    if x.ndim != 2:
        raise ValueError(f"x {tuple(x.shape)} must be (tokens, d_in)")
    if not 1 <= k <= len(values):
        raise ValueError(f"k={k} must be in 1..{len(values)} (n_latents)")


def check_picks(codes: Tensor, indices: Tensor) -> None:
    """Raise ValueError unless codes and indices are (tokens, k) on one device. Their range is not checked."""
    if codes.ndim != 2 or codes.shape != indices.shape or indices.dtype != torch.int64:
        shapes = f"codes {tuple(codes.shape)} and indices {tuple(indices.shape)} of {indices.dtype}"
        raise ValueError(f"{shapes} must both be (tokens, k), indices int64")
    if codes.device != indices.device:
        raise ValueError(f"codes are on {codes.device}, indices on {indices.device}")


def check_targets(x: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> None:
    """Raise ValueError unless x has a row for each token of the picks `indices`."""
    check_atoms(values, support, x.shape[-1], x=x)
    check_picks(indices.to(x.dtype), indices)
    if x.ndim != 2 or len(x) != len(indices):
        raise ValueError(f"x {tuple(x.shape)} must be ({len(indices)}, d_in), as many tokens as indices")
