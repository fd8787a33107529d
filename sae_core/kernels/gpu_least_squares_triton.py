"""The Triton kernels of `gpu_least_squares`, one program instance per token, imported as those of `gpu_triton` are."""
# Triton's reductions return a tensor where no indices are asked for, which its types do not say.
# pyright: basic, reportOperatorIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import triton
import triton.language as tl


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
