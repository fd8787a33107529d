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
    for start in range(0, degree, DEGREE):
        i = start + tl.arange(0, DEGREE)
        used = real[:, None] & (i < degree)[None, :]
        entry = latent[:, None] * degree + i[None, :]
        row = tl.load(support + entry, mask=used, other=0)
        term = tl.load(values + entry, mask=used, other=0.0) * tl.load(x + token * d_in + row, mask=used, other=0.0)
        z += tl.sum(term, axis=1)
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
    latent = tl.load(indices + token * k + pick, mask=here, other=-1)
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
    for start in range(0, degree, DEGREE):
        i = start + tl.arange(0, DEGREE)
        real = here[:, None] & (i < degree)[None, :]
        entry = latent[:, None] * degree + i[None, :]
        row = tl.load(support + entry, mask=real, other=0)
        term = tl.load(values + entry, mask=real, other=0.0) * tl.load(y + token * d_in + row, mask=real, other=0.0)
        total += tl.sum(term, axis=1)
    tl.store(out + token * k + pick, total, mask=pick < k)


@triton.jit
def scaled(x, target, residual, scale, least, d_in, tolerance, WIDTH: tl.constexpr):
    """Write x / scale (tokens, d_in) to target and residual, and `tolerance` times its norm to least (tokens,).

    A scale is a power of two near the largest magnitude, so that dividing is exact and no square over- or underflows.
    Where x is not finite, target is 0 and scale (tokens,) is NaN.
    """
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    v = tl.load(x + token * d_in + at, mask=at < d_in, other=0.0)
    size = tl.abs(v)
    finite = tl.min(((v == v) & (size < float("inf"))).to(tl.int32), 0) == 1
    v = tl.where(finite, v, 0.0)
    top = tl.max(tl.where(finite, size, 0.0), 0)
    if v.dtype == tl.float64:
        exponent = tl.minimum(tl.maximum((top.to(tl.int64, bitcast=True) >> 52) - 1022, -1000), 1000)
        scale_of = ((exponent + 1023) << 52).to(tl.float64, bitcast=True)
        inverse = ((1023 - exponent) << 52).to(tl.float64, bitcast=True)
    else:
        exponent = tl.minimum(tl.maximum((top.to(tl.int32, bitcast=True) >> 23) - 126, -125), 125)
        scale_of = ((exponent + 127) << 23).to(tl.float32, bitcast=True)
        inverse = ((127 - exponent) << 23).to(tl.float32, bitcast=True)
    v *= inverse
    tl.store(target + token * d_in + at, v, mask=at < d_in)
    tl.store(residual + token * d_in + at, v, mask=at < d_in)
    tl.store(scale + token, tl.where(finite, scale_of, float("nan")))
    tl.store(least + token, tolerance * tl.sqrt(tl.sum(v * v, 0)))


@triton.jit
def filled_up(picks, codes, scale, n, k, PICKS: tl.constexpr, UNUSED: tl.constexpr):
    """Multiply codes (tokens, k) by scale (tokens,), and put the unused atoms of lowest index where a pick is -1."""
    token = tl.program_id(0).to(tl.int64)
    at, atom = tl.arange(0, PICKS), tl.arange(0, UNUSED)
    pick = tl.load(picks + token * k + at, mask=at < k, other=0)
    missing = ((pick < 0) & (at < k)).to(tl.int32)
    used = tl.max(((atom[:, None] == pick[None, :]) & (at < k)[None, :]).to(tl.int32), 1)
    unused = 1 - used
    wanted = tl.cumsum(missing, 0)[None, :] == tl.cumsum(unused, 0)[:, None]
    filling = tl.sum(tl.where(wanted & (unused == 1)[:, None], atom[:, None], 0), 0)
    tl.store(picks + token * k + at, tl.where(missing == 1, filling, pick), mask=at < k)
    code = tl.load(codes + token * k + at, mask=at < k, other=0.0)
    tl.store(codes + token * k + at, code * tl.load(scale + token), mask=at < k)


@triton.jit
def matching_pursuit(
    z,
    residual,
    least,
    values,
    support,
    first_of_row,
    atoms_of_row,
    values_of_row,
    gram,
    picks,
    codes,
    n,
    d_in,
    degree,
    k,
    MAGNITUDE: tl.constexpr,
    SPARSE: tl.constexpr,
    BY_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEGREE: tl.constexpr,
    ENTRIES: tl.constexpr,
    PICKS: tl.constexpr,
):
    """Pick up to k atoms for the token of this program, and write them to picks and codes (tokens, k), then -1 and 0.

    A pick is the atom of the largest correlation z; those picked before have NaN there, which is never the largest.
    Its code is its product with `residual` (tokens, d_in), made anew, so that it has none of the rounding errors that
    pile up in z. The search ends at a code that is not above least (tokens,).

    After a pick z is brought up to date. BY_ROWS: all of it, by the pick's row of gram (n, n), while the next pick is
    looked for. Otherwise: only the atoms that share a row with the pick. Entries first_of_row[r] to first_of_row[r + 1]
    of atoms_of_row and values_of_row say which atoms use row r, and their values there.
    """
    token = tl.program_id(0).to(tl.int64)
    z += token * n
    residual += token * d_in
    limit = tl.load(least + token)
    each = tl.arange(0, PICKS)
    tl.store(picks + token * k + each, -1, mask=each < k)
    tl.store(codes + token * k + each, 0.0, mask=each < k)
    tl.debug_barrier()
    lanes, within, entry = tl.arange(0, BLOCK), tl.arange(0, DEGREE), tl.arange(0, ENTRIES)
    code, pick = tl.full((), 0.0, dtype=values.dtype.element_ty), tl.full((), 0, dtype=tl.int64)
    done = 0
    while done < k:
        best = tl.full((BLOCK,), float("-inf"), dtype=values.dtype.element_ty)
        best_at = tl.zeros((BLOCK,), dtype=tl.int32)
        for start in range(0, n, BLOCK):
            latent = start + lanes
            c = tl.load(z + latent, mask=latent < n, other=float("nan"), cache_modifier=".cg")
            if BY_ROWS:  # noqa: SIM102  (known when it is compiled: gram is None otherwise)
                if done > 0:
                    row_of_gram = tl.load(gram + pick * n + latent, mask=latent < n, other=0.0)
                    c = tl.where(latent == pick, float("nan"), c - code * row_of_gram)
                    tl.store(z + latent, c, mask=latent < n)
            size = tl.abs(c) if MAGNITUDE else c
            better = size > best
            best = tl.where(better, size, best)
            best_at = tl.where(better, latent, best_at)
        top = tl.max(best, 0)
        pick = tl.min(tl.where(best == top, best_at, n), 0).to(tl.int64)
        code = code * 0
        if top > float("-inf"):
            code = _product(residual, values, support, pick, degree, SPARSE, DEGREE)
        if tl.abs(code) > limit:
            tl.store(picks + token * k + done, pick)
            tl.store(codes + token * k + done, code)
            if not BY_ROWS:
                tl.store(z + pick, float("nan"))
            for start in range(0, degree, DEGREE):
                i = start + within
                real = i < degree
                value = tl.load(values + pick * degree + i, mask=real, other=0.0)
                row = tl.load(support + pick * degree + i, mask=real, other=0) if SPARSE else i
                left = tl.load(residual + row, mask=real, other=0.0)
                tl.store(residual + row, left - code * value, mask=real)
                if not BY_ROWS:
                    first = tl.load(first_of_row + row, mask=real, other=0)
                    last = tl.load(first_of_row + row + 1, mask=real, other=0)
                    for some in range(0, tl.max(last - first, 0).to(tl.int32), ENTRIES):
                        at = first[:, None] + some + entry[None, :]
                        used = at < last[:, None]
                        atom = tl.load(atoms_of_row + at, mask=used, other=0)
                        other = tl.load(values_of_row + at, mask=used, other=0.0)
                        tl.atomic_add(z + atom, -code * value[:, None] * other, mask=used, sem="relaxed")
            done += 1
        else:
            done += k
        tl.debug_barrier()  # what was written is read by other threads


@triton.jit
def _product(y, values, support, latent, degree, SPARSE: tl.constexpr, DEGREE: tl.constexpr):
    """Return <atom latent, y (d_in,)>."""
    total = tl.zeros((DEGREE,), dtype=values.dtype.element_ty)
    for start in range(0, degree, DEGREE):
        i = start + tl.arange(0, DEGREE)
        real = i < degree
        value = tl.load(values + latent * degree + i, mask=real, other=0.0)
        row = tl.load(support + latent * degree + i, mask=real, other=0) if SPARSE else i
        total += value * tl.load(y + row, mask=real, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def gram_of_picks(picks, values, support, out, degree, k, PICKS: tl.constexpr):
    """Write the products of the token's picks to out (tokens, k, k); a pick of -1 is orthogonal to all others."""
    token = tl.program_id(0).to(tl.int64)
    pick = tl.arange(0, PICKS)
    latent = tl.load(picks + token * k + pick, mask=pick < k, other=-1)
    real = latent >= 0
    gram = tl.zeros((PICKS, PICKS), dtype=values.dtype.element_ty)
    for i in range(degree):
        row = tl.load(support + latent * degree + i, mask=real, other=-1).to(tl.int32)
        value = tl.load(values + latent * degree + i, mask=real, other=0.0)
        for j in range(degree):
            other_row = tl.load(support + latent * degree + j, mask=real, other=-2).to(tl.int32)
            other = tl.load(values + latent * degree + j, mask=real, other=0.0)
            gram += tl.where(row[:, None] == other_row[None, :], value[:, None] * other[None, :], 0.0)
    gram += tl.where((pick[:, None] == pick[None, :]) & (latent < 0)[:, None], 1.0, 0.0)
    here = (pick[:, None] < k) & (pick[None, :] < k)
    tl.store(out + token * k * k + pick[:, None] * k + pick[None, :], gram, mask=here)


@triton.jit
def substitute(gram, factor, failed, products, codes, k, tolerance, PICKS: tl.constexpr):
    """Add the solution of gram * c = products to codes (tokens, k), and set failed (tokens,) where there is none.

    `factor` (tokens, k, k) is gram's Cholesky factor, transposed: its row s is column s of the lower one. There is no
    solution where Cholesky's method failed, or where a pivot is at most `tolerance` of the pick's own product.
    """
    token = tl.program_id(0).to(tl.int64)
    gram, factor = gram + token * k * k, factor + token * k * k
    pick = tl.arange(0, PICKS)
    here = pick < k
    pivots = tl.load(factor + pick * (k + 1), mask=here, other=1.0)
    sizes = tl.load(gram + pick * (k + 1), mask=here, other=1.0)
    independent = tl.min((pivots * pivots > tolerance * sizes).to(tl.int32), 0) == 1
    if independent & (tl.load(failed + token) == 0):
        c = tl.load(products + token * k + pick, mask=here, other=0.0)
        for s in range(k):
            below = tl.load(factor + s * k + pick, mask=here & (pick > s), other=0.0)
            solved = tl.sum(tl.where(pick == s, c, 0.0), 0) / tl.load(factor + s * (k + 1))
            c = tl.where(pick == s, solved, c - below * solved)
        for back in range(k):
            s = k - 1 - back
            below = tl.load(factor + s * k + pick, mask=here & (pick > s), other=0.0)
            after = tl.sum(below * c, 0)
            c = tl.where(pick == s, (c - after) / tl.load(factor + s * (k + 1)), c)
        before = tl.load(codes + token * k + pick, mask=here, other=0.0)
        tl.store(codes + token * k + pick, before + c, mask=here)
    else:
        tl.store(failed + token, 1)


@triton.jit
def eliminate(gram, failed, products, codes, k, tolerance, PICKS: tl.constexpr):
    """Do for tokens that `failed` what `substitute` does for others, with dependent picks.

    A pick whose pivot is at most `tolerance` of its own product is in the span of those before it: its solution is 0.
    """
    token = tl.program_id(0).to(tl.int64)
    if tl.load(failed + token) != 0:
        _eliminate(gram + token * k * k, products + token * k, codes + token * k, k, tolerance, PICKS)


@triton.jit
def _eliminate(gram, products, codes, k, tolerance, PICKS: tl.constexpr):
    pick = tl.arange(0, PICKS)
    here, row, column = pick < k, pick[:, None], pick[None, :]
    a = tl.load(gram + row * k + column, mask=here[:, None] & here[None, :], other=0.0)
    c = tl.load(products + pick, mask=here, other=0.0)
    sizes = tl.sum(tl.where(row == column, a, 0.0), 1)
    for s in range(k):  # column s of a becomes that of the factor, and c the solution by it
        below = tl.sum(tl.where(column == s, a, 0.0), 1)
        right = tl.sum(tl.where(row == s, a, 0.0), 0)
        rest = tl.sum(tl.where(pick == s, below, 0.0), 0)
        kept = rest > tolerance * tl.sum(tl.where(pick == s, sizes, 0.0), 0)
        inverse = tl.where(kept, 1 / tl.sqrt(tl.where(kept, rest, 1.0)), 0.0)
        below = tl.where(pick > s, below * inverse, 0.0)
        right = tl.where(pick > s, right * inverse, 0.0)
        solved = tl.sum(tl.where(pick == s, c, 0.0), 0) * inverse
        c = tl.where(pick == s, solved, c - below * solved)
        a -= below[:, None] * right[None, :]
        a = tl.where(column == s, tl.where(pick == s, inverse, below)[:, None], a)
    for back in range(k):
        s = k - 1 - back
        below = tl.sum(tl.where(column == s, a, 0.0), 1)
        inverse = tl.sum(tl.where(pick == s, below, 0.0), 0)
        after = tl.sum(tl.where(pick > s, below * c, 0.0), 0)
        c = tl.where(pick == s, (c - after) * inverse, c)
    before = tl.load(codes + pick, mask=here, other=0.0)
    tl.store(codes + pick, before + c, mask=here)
