"""The Triton kernels of `gpu`, one program instance per block of tokens or picks.

`autograd.Kernels` says the shapes. This module is imported only when a GPU (or Triton's interpreter) is to be used,
because decorating a function already needs Triton.
"""
# pyright: basic

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def group_maxima(x_by_row, values, support, bias, out, tokens, n, degree, GROUP: tl.constexpr, TOKENS: tl.constexpr):
    """Write the largest pre-activation of each group of GROUP consecutive latents to out (tokens, groups), NaN as inf.

    In x_by_row (d_in, tokens) the tokens of one row lie side by side, so every gather is coalesced.
    """
    group = tl.program_id(0)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    latent = group * GROUP + tl.arange(0, GROUP)
    real, here = latent < n, token < tokens
    z = tl.zeros((GROUP, TOKENS), dtype=values.dtype.element_ty)
    z += tl.load(bias + latent, mask=real, other=0.0)[:, None]
    for i in range(degree):
        row = tl.load(support + latent * degree + i, mask=real, other=0)
        weight = tl.load(values + latent * degree + i, mask=real, other=0.0)
        x = tl.load(x_by_row + row[:, None] * tokens + token[None, :], mask=real[:, None] & here[None, :], other=0.0)
        z += weight[:, None] * x
    z = tl.where(real[:, None], tl.where(z == z, z, float("inf")), float("-inf"))
    tl.store(out + token.to(tl.int64) * tl.num_programs(0) + group, tl.max(z, axis=0), mask=here)


@triton.jit
def candidates(
    x, values, support, bias, groups, out, tokens, d_in, n, degree, count, GROUP: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the pre-activations of latents in each token's groups (tokens, count / GROUP) to out (tokens, count)."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    latent = tl.load(groups + token * (count // GROUP) + at // GROUP, mask=here, other=0) * GROUP + at % GROUP
    real = here & (latent < n)
    z = tl.load(bias + latent, mask=real, other=0.0)
    for i in range(degree):
        row = tl.load(support + latent * degree + i, mask=real, other=0)
        weight = tl.load(values + latent * degree + i, mask=real, other=0.0)
        z += weight * tl.load(x + token * d_in + row, mask=real, other=0.0)
    tl.store(out + token * count + at, tl.where(real, z, float("-inf")), mask=here)


@triton.jit
def add_picks(
    weights,
    indices,
    read,
    support,
    out,
    tokens,
    d_in,
    degree,
    k,
    TO_ATOMS: tl.constexpr,
    PICKS: tl.constexpr,
    DEGREE: tl.constexpr,
):
    """Add up one of two sums over the picks; the two sums mirror each other.

    Without TO_ATOMS `read` has the values, and out (tokens, d_in) += weight * atom. With it `read` is y, and
    out (n, degree) += weight * y on the atom's support.
    """
    token = tl.program_id(0).to(tl.int64)
    pick = tl.program_id(1) * PICKS + tl.arange(0, PICKS)
    here = pick < k
    latent = tl.load(indices + token * k + pick, mask=here, other=0)
    weight = tl.load(weights + token * k + pick, mask=here, other=0.0)
    for start in range(0, degree, DEGREE):
        i = start + tl.arange(0, DEGREE)
        real = here[:, None] & (i < degree)[None, :]
        of_atom = latent[:, None] * degree + i[None, :]
        of_token = token * d_in + tl.load(support + of_atom, mask=real, other=0)
        if TO_ATOMS:
            term = weight[:, None] * tl.load(read + of_token, mask=real, other=0.0)
            tl.atomic_add(out + of_atom, term, mask=real)
        else:
            term = weight[:, None] * tl.load(read + of_atom, mask=real, other=0.0)
            tl.atomic_add(out + of_token, term, mask=real)


@triton.jit
def atom_products(y, indices, values, support, out, tokens, d_in, degree, k, PICKS: tl.constexpr, DEGREE: tl.constexpr):
    """Write <atom picked, y of the token> to out (tokens, k)."""
    token = tl.program_id(0).to(tl.int64)
    pick = tl.program_id(1) * PICKS + tl.arange(0, PICKS)
    here = pick < k
    latent = tl.load(indices + token * k + pick, mask=here, other=0)
    total = tl.zeros((PICKS,), dtype=values.dtype.element_ty)
    for start in range(0, degree, DEGREE):
        i = start + tl.arange(0, DEGREE)
        real = here[:, None] & (i < degree)[None, :]
        entry = latent[:, None] * degree + i[None, :]
        row = tl.load(support + entry, mask=real, other=0)
        term = tl.load(values + entry, mask=real, other=0.0) * tl.load(y + token * d_in + row, mask=real, other=0.0)
        total += tl.sum(term, axis=1)
    tl.store(out + token * k + pick, total, mask=here)
