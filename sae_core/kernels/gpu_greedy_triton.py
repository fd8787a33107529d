"""The Triton kernels of `gpu_greedy`, one program instance per token, imported as those of `gpu_triton` are."""
# Triton's reductions return a tensor where no indices are asked for, which its types do not say.
# pyright: basic, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl


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
