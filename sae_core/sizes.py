"""The sizes of a dictionary, n, d and k, and the one place where their ranges are checked."""

from __future__ import annotations

import math


class CellError(ValueError):
    """The error of a cell, one combination of sizes in a grid, that makes no SAE; the grid leaves it out.

    Each size is in range by itself, but not together with the others: d > m, n <= 2k, a PCA of a rank outside 1..m, or
    a matched dense dictionary without a latent. Any other ValueError is a mistake in the settings and ends the sweep.
    """


def check_degree(d_in: int, degree: int) -> None:
    """Raise ValueError unless 1 <= degree <= d_in: a CellError where the degree is too large for this d_in."""
    if not 1 <= degree <= d_in:
        kind = CellError if degree > d_in else ValueError
        raise kind(f"d={degree} must be in 1..{d_in} (d_in, the rows that an atom can use)")


def check_latents(n_latents: int) -> None:
    """Raise ValueError unless there is at least one latent."""
    if n_latents < 1:
        raise ValueError(f"n={n_latents} must be at least 1")


def check_sparsity(n_latents: int, k: int) -> None:
    """Raise ValueError unless n and k are at least 1, and CellError for n <= 2k.

    With n <= 2k, k-sparse codes cannot be unique (paper, section 4).
    """
    check_latents(n_latents)
    if k < 1:
        raise ValueError(f"k={k} must be in 1..{n_latents} (n)")
    if n_latents <= 2 * k:
        raise CellError(f"n={n_latents} <= 2k={2 * k}: {k}-sparse codes of {n_latents} atoms cannot be unique")


def bits_per_index(d_in: int) -> int:
    """Return ceil(log2 m), the number of bits that name one of m rows."""
    return max(1, (d_in - 1).bit_length())


def bits_per_atom(d_in: int, degree: int) -> int:
    """Return ceil(log2 C(m, d)), the number of bits that name one set of d of the m rows; 1 where there is one set."""
    return max(1, (math.comb(d_in, degree) - 1).bit_length())
