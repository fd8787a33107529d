"""The Triton backend: sparse atoms on a GPU, without ever making a (tokens, n_latents) tensor.

Encode + TopK runs over the latents twice, since computing a pre-activation (degree multiply-adds) is cheaper than
keeping it. The first pass keeps the maximum of each group of about sqrt(n_latents / k) latents. The k groups with the
largest maxima hold the k largest latents, so the second pass computes those groups alone and selects among them.
Dense atoms and the unit norm are left to `torch_gather`. float16 and bfloat16 are computed in float32.
`autograd.Kernels` says the shapes.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from sae_core.kernels import torch_gather
from sae_core.kernels.autograd import widened
from sae_core.kernels.torch_gather import unit_norm, unit_norm_gradient

__all__ = ["atom_gradient", "atom_products", "encode_topk", "unit_norm", "unit_norm_gradient", "weighted_atoms"]

_TOKENS = 64  # tokens that one program of the first pass computes, so that its gathers are of 256 bytes
_TERMS = 512  # multiply-adds that one program of the sums does in a step, at most
_CANDIDATE_TERMS = 2048  # multiply-adds that one program of the second pass does in a step, at most
_HELD = 1 << 28  # bytes that pursuits hold at once: of correlations, or of products of picks
_WIDEST = 64  # values of an atom that are computed at once, at most


def why_unavailable(device: torch.device) -> str | None:
    """Return the reason why the kernels cannot run on `device`; None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if device.type == "cuda":
        return None
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return f"it computes on a CUDA device, not on {device.type} (TRITON_INTERPRET=1 runs it there, slowly, for tests)"


def encode_topk(x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Compute what `autograd.Kernels.encode_topk` defines."""
    if support is None:
        return torch_gather.encode_topk(x, values, None, bias, k)
    triton = triton_kernels()
    (tokens, d_in), (n, degree), dtype = x.shape, values.shape, x.dtype
    x, values, bias = widened(x), widened(values), widened(bias)
    group = group_size(n, k)
    n_groups = -(-n // group)
    maxima = x.new_empty(tokens, n_groups)
    grid = (n_groups, -(-tokens // _TOKENS))
    triton.group_maxima[grid](
        x.T.contiguous(), values, support, bias, maxima, tokens, n, degree, GROUP=group, TOKENS=_TOKENS
    )
    groups = x.new_empty(tokens, k, dtype=torch.int32)
    _keep_largest(maxima, None, 0, None, groups)
    z = x.new_empty(tokens, k * group)
    width = min(power_of_two(degree), _WIDEST)
    block = min(power_of_two(k * group), _CANDIDATE_TERMS // width)
    arguments = (x, values, support, bias, groups, z, d_in, n, degree, k * group, k)
    grid = (tokens, -(-k * group // block))
    triton.candidates[grid](*arguments, GROUP=group, BLOCK=block, DEGREE=width)
    codes, indices = x.new_empty(tokens, k), x.new_empty(tokens, k, dtype=torch.int64)
    _keep_largest(z, groups, group, codes, indices)
    # The last group is padded with -inf, which is picked only where fewer than k pre-activations are above -inf.
    return codes.to(dtype), indices.clamp_(max=n - 1)


def _keep_largest(z: Tensor, groups: Tensor | None, group: int, codes: Tensor | None, indices: Tensor) -> None:
    """Fill codes and indices (tokens, k) with the largest of z (tokens, count), as the kernel `largest` says."""
    count, k = z.shape[1], indices.shape[1]
    width = power_of_two(count)
    arguments = (z, groups, codes, indices, count, k)
    triton_kernels().largest[(len(z),)](*arguments, GROUP=group, WIDTH=width, num_warps=warps(width))


def warps(values: int) -> int:
    """Return how many warps of 32 threads hold so many values, 32 a thread, without spilling: from 1 to 16."""
    return min(16, max(1, values // 1024))


def group_size(n: int, k: int) -> int:
    """Return the size of a group: the largest power of two that is not above sqrt(n / k).

    Then there are at least k groups, and about as many maxima (n / group) as candidates (k * group).
    """
    group = 1
    while 4 * group * group * k <= n:
        group *= 2
    return group


def weighted_atoms(
    weights: Tensor, indices: Tensor, values: Tensor, support: Tensor | None, d_in: int, start: Tensor | None = None
) -> Tensor:
    """Compute what `autograd.Kernels.weighted_atoms` defines."""
    if support is None:
        return torch_gather.weighted_atoms(weights, indices, values, None, d_in, start)
    dtype = weights.dtype
    weights, values = widened(weights), widened(values)
    out = weights.new_zeros(len(weights), d_in) if start is None else widened(start).clone()
    _launch_over_picks("add_picks", weights, indices, values, support, out, d_in=d_in, TO_ATOMS=False)
    return out.to(dtype)


def atom_products(y: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
    """Compute what `autograd.Kernels.atom_products` defines."""
    if support is None:
        return torch_gather.atom_products(y, indices, values, None)
    dtype = y.dtype
    y, values = widened(y), widened(values)
    out = y.new_empty(indices.shape)
    _launch_over_picks("atom_products", y, indices, values, support, out, d_in=y.shape[1])
    return out.to(dtype)


def atom_gradient(weights: Tensor, indices: Tensor, y: Tensor, support: Tensor | None, n_latents: int) -> Tensor:
    """Compute what `autograd.Kernels.atom_gradient` defines."""
    if support is None:
        return torch_gather.atom_gradient(weights, indices, y, None, n_latents)
    dtype = y.dtype
    weights, y = widened(weights), widened(y)
    out = y.new_zeros(support.shape)
    _launch_over_picks("add_picks", weights, indices, y, support, out, d_in=y.shape[1], TO_ATOMS=True)
    return out.to(dtype)


def _launch_over_picks(
    name: str, first: Tensor, indices: Tensor, read: Tensor, support: Tensor, out: Tensor, d_in: int, **flags: bool
) -> None:
    """Launch kernel `name` over (token, block of picks); a program does about _TERMS multiply-adds at a time."""
    (tokens, k), degree = indices.shape, support.shape[1]
    width = min(power_of_two(degree), _WIDEST)
    picks = min(power_of_two(k), max(1, _TERMS // width))
    kernel = getattr(triton_kernels(), name)
    arguments = (first, indices, read, support, out, tokens, d_in, degree, k)
    kernel[(tokens, -(-k // picks))](*arguments, PICKS=picks, DEGREE=width, **flags)


def power_of_two(at_least: int) -> int:
    """Return the least power of two that is not below `at_least`."""
    return 1 << (at_least - 1).bit_length()


def triton_kernels(name: str = "gpu_triton") -> Any:
    """Return the module `name` of Triton kernels, which can be imported only where there is Triton."""
    return importlib.import_module(f"sae_core.kernels.{name}")


def parts(tokens: int, bytes_each: int) -> list[slice]:
    """Return slices of so many tokens that each holds `_HELD` bytes at most (but one token at least)."""
    many = max(1, _HELD // bytes_each)
    return [slice(first, first + many) for first in range(0, tokens, many)]
