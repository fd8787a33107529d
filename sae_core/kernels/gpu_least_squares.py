"""Least squares of each token on its picks, on a GPU: their Gram matrices, Cholesky's method, and substitution.

cuSOLVER factorises all Gram matrices of a batch at once. Tokens whose picks are dependent, where that fails, are found
on the device and eliminated there, so that the host waits for nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_core.kernels import gpu
from sae_core.kernels.composed import dense_picks
from sae_core.pursuit.reference import rounding

MOST_PICKS = 128  # most picks that one program solves
_COMPARISON = 3  # comparing the rows of two picks d * d times takes as long as d * d * 3 multiply-adds


def least_squares(target: Tensor, values: Tensor, support: Tensor | None, picks: Tensor, codes: Tensor) -> None:
    """Add the least squares solution on all picks (tokens, k) to `codes`, which are 0; a pick of -1 has none."""
    (tokens, d_in), k, triton = target.shape, picks.shape[1], _kernels()
    width = gpu.power_of_two(k)
    for part in gpu.parts(tokens, k * k * codes.element_size()):
        mine, found, left = picks[part], codes[part], target[part]
        latents = mine.clamp(min=0) if support is None else mine  # kernels of dense atoms know no -1
        gram = _gram_of_picks(mine, values, support, d_in)
        factor, failed = torch.linalg.cholesky_ex(gram)
        factor = factor.mT.contiguous()
        for again in (True, False):  # a second time, for the error that the factor's rounding left
            products = gpu.atom_products(left, latents, values, support)
            if support is None:
                products *= mine >= 0
            sizes = (products, found, k, rounding(codes.dtype))
            triton.substitute[(len(mine),)](gram, factor, failed, *sizes, PICKS=width, num_warps=1)
            triton.eliminate[(len(mine),)](gram, failed, *sizes, PICKS=width, num_warps=gpu.warps(width * width))
            if again:
                left = gpu.weighted_atoms(-found, latents, values, support, d_in, target[part])


def _gram_of_picks(picks: Tensor, values: Tensor, support: Tensor | None, d_in: int) -> Tensor:
    """Return the products of each token's picks (tokens, k, k); a pick of -1 is orthogonal to all others."""
    tokens, k = picks.shape
    gram = values.new_empty(tokens, k, k)
    if support is not None and _COMPARISON * support.shape[1] ** 2 <= d_in:
        width = gpu.power_of_two(k)
        arguments = (picks, values, support, gram, support.shape[1], k)
        _kernels().gram_of_picks[(tokens,)](*arguments, PICKS=width, num_warps=2 * gpu.warps(width * width))
        return gram
    for part in gpu.parts(tokens, k * d_in * values.element_size()):
        atoms = dense_picks(picks[part].clamp(min=0), picks[part] >= 0, values, support, d_in)
        torch.bmm(atoms, atoms.mT, out=gram[part])
    gram.diagonal(dim1=1, dim2=2).add_(picks < 0)
    return gram


def _kernels() -> Any:
    return gpu.triton_kernels("gpu_least_squares_triton")
