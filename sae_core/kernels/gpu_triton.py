"""The Triton kernels of `gpu`, one program instance per block of tokens or picks.

`autograd.Kernels` says the shapes. This module is imported only when a GPU (or Triton's interpreter) is to be used,
because decorating a function already needs Triton.
"""
# Triton's reductions return a tensor where no indices are asked for, which its types do not say.
# pyright: basic, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _products(x_by_row, values, support, latent, real, token, here, tokens, degree):
    """Return <atom latent, x of token> (latents, tokens), 0 where either is not there.

    In x_by_row (d_in, tokens) the tokens of one row lie side by side, so every gather is coalesced.
    """
    z = tl.zeros((latent.shape[0], token.shape[0]), dtype=values.dtype.element_ty)
    for i in range(degree):
        row = tl.load(support + latent * degree + i, mask=real, other=0)
        weight = tl.load(values + latent * degree + i, mask=real, other=0.0)
        x = tl.load(x_by_row + row[:, None] * tokens + token[None, :], mask=real[:, None] & here[None, :], other=0.0)
        z += weight[:, None] * x
    return z


@triton.jit
def group_maxima(x_by_row, values, support, bias, out, tokens, n, degree, GROUP: tl.constexpr, TOKENS: tl.constexpr):
    """Write the largest pre-activation of each group of GROUP latents to out (tokens, groups), NaN as inf."""
    group = tl.program_id(0)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    latent = group * GROUP + tl.arange(0, GROUP)
    real, here = latent < n, token < tokens
    z = _products(x_by_row, values, support, latent, real, token, here, tokens, degree)
    z += tl.load(bias + latent, mask=real, other=0.0)[:, None]
    z = tl.where(real[:, None], tl.where(z == z, z, float("inf")), float("-inf"))
    tl.store(out + token.to(tl.int64) * tl.num_programs(0) + group, tl.max(z, axis=0), mask=here)


@triton.jit
def correlations(x_by_row, values, support, out, tokens, n, degree, GROUP: tl.constexpr, TOKENS: tl.constexpr):
    """Write <atom, x of the token> to out (tokens, n)."""
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    latent = tl.program_id(0) * GROUP + tl.arange(0, GROUP)
    real, here = latent < n, token < tokens
    z = _products(x_by_row, values, support, latent, real, token, here, tokens, degree)
    tl.store(out + token.to(tl.int64)[None, :] * n + latent[:, None], z, mask=real[:, None] & here[None, :])


@triton.jit
def _keys(v, real):
    """Return whole numbers in the order of the floats v, NaN as the largest; below all of them where not real."""
    if v.dtype == tl.float64:
        bits = v.to(tl.int64, bitcast=True)
        keys = tl.where(bits < 0, bits ^ 0x7FFFFFFFFFFFFFFF, bits)
        keys = tl.where(v == v, keys, 0x7FFFFFFFFFFFFFFF)
        return tl.where(real, keys, -0x7FFFFFFFFFFFFFFF - 1)
    else:
        bits = v.to(tl.int32, bitcast=True)
        keys = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        keys = tl.where(v == v, keys, 0x7FFFFFFF)
        return tl.where(real, keys, -0x7FFFFFFF - 1)


@triton.jit
def _largest(keys, k):
    """Return (whether a key is one of the k largest, its place among these): of equal keys, the first ones."""
    bits: tl.constexpr = keys.dtype.primitive_bitwidth
    floor = tl.full((), 0, keys.dtype)  # becomes the largest number that k keys are not below
    if tl.sum((keys >= 0).to(tl.int32), 0) < k:
        floor = floor + (-(2 ** (bits - 1)))
    one = tl.full((), 1, keys.dtype)
    for b in range(1, bits):
        higher = floor | (one << (bits - 1 - b))
        floor = tl.where(tl.sum((keys >= higher).to(tl.int32), 0) >= k, higher, floor)
    above = keys > floor
    equal = (keys == floor).to(tl.int32)
    wanted = k - tl.sum(above.to(tl.int32), 0)
    taken = above | ((equal == 1) & (tl.cumsum(equal, 0) <= wanted))
    return taken, tl.cumsum(taken.to(tl.int32), 0) - 1


@triton.jit
def largest(z, groups, codes, indices, count, k, GROUP: tl.constexpr, WIDTH: tl.constexpr):
    """Write the k largest of the token's z (tokens, count) to codes (tokens, k), and where they are to indices.

    With a GROUP above 0, entry i of z is number i % GROUP of group groups[i // GROUP], of GROUP latents each; indices
    are then latents. Otherwise they are entries of z, and codes are not written.
    """
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    here = at < count
    value = tl.load(z + token * count + at, mask=here, other=0.0)
    if GROUP > 0:  # noqa: SIM108  (known when it is compiled: groups is None otherwise)
        latent = tl.load(groups + token * k + at // GROUP, mask=here, other=0) * GROUP + at % GROUP
    else:
        latent = at
    taken, place = _largest(_keys(value, here), k)
    if GROUP > 0:
        tl.store(codes + token * k + place, value, mask=taken)
    tl.store(indices + token * k + place, latent, mask=taken)


@triton.jit
def _add_products(start_at, y, values, support, latent, here, degree, DEGREE: tl.constexpr):
    """Return start_at (latents,) + <atom latent, y (d_in,)>, the latter where an atom is `here`."""
    total = start_at
    for start in range(0, degree, DEGREE):
        i = start + tl.arange(0, DEGREE)
        real = here[:, None] & (i < degree)[None, :]
        entry = latent[:, None] * degree + i[None, :]
        row = tl.load(support + entry, mask=real, other=0)
        term = tl.load(values + entry, mask=real, other=0.0) * tl.load(y + row, mask=real, other=0.0)
        total += tl.sum(term, axis=1)
    return total


@triton.jit
def candidates(
    x,
    values,
    support,
    bias,
    groups,
    out,
    d_in,
    n,
    degree,
    count,
    k,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    DEGREE: tl.constexpr,
):
    """Write the pre-activations of the latents in the token's groups (tokens, k) to out (tokens, count).

    `count` is k * GROUP. Entries that stand for no latent, at the end of the last group, are -inf.
    """
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    latent = tl.load(groups + token * k + at // GROUP, mask=here, other=0) * GROUP + at % GROUP
    real = here & (latent < n)
    z = tl.load(bias + latent, mask=real, other=0.0)
    z = _add_products(z, x + token * d_in, values, support, latent, real, degree, DEGREE)
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
    latent = tl.load(indices + token * k + pick, mask=pick < k, other=-1)
    here = latent >= 0  # -1 stands for no pick
    weight = tl.load(weights + token * k + pick, mask=here, other=0.0)
    for start in range(0, degree, DEGREE):
        i = start + tl.arange(0, DEGREE)
        real = here[:, None] & (i < degree)[None, :]
        of_atom = latent[:, None] * degree + i[None, :]
        of_token = token * d_in + tl.load(support + of_atom, mask=real, other=0)
        if TO_ATOMS:
            term = weight[:, None] * tl.load(read + of_token, mask=real, other=0.0)
            tl.atomic_add(out + of_atom, term, mask=real, sem="relaxed")
        else:
            term = weight[:, None] * tl.load(read + of_atom, mask=real, other=0.0)
            tl.atomic_add(out + of_token, term, mask=real, sem="relaxed")


@triton.jit
def atom_products(y, indices, values, support, out, tokens, d_in, degree, k, PICKS: tl.constexpr, DEGREE: tl.constexpr):
    """Write <atom picked, y of the token> to out (tokens, k)."""
    token = tl.program_id(0).to(tl.int64)
    pick = tl.program_id(1) * PICKS + tl.arange(0, PICKS)
    latent = tl.load(indices + token * k + pick, mask=pick < k, other=-1)
    here = latent >= 0  # -1 stands for no pick, whose product is 0
    total = tl.zeros((PICKS,), dtype=values.dtype.element_ty)
    total = _add_products(total, y + token * d_in, values, support, latent, here, degree, DEGREE)
    tl.store(out + token * k + pick, total, mask=pick < k)
