"""Left-d-regular supports: which rows each atom may use.

A support is an int64 tensor (n_latents, degree); row i holds the sorted, distinct row indices of atom i, each in
0..d_in-1. A support drawn from a seed is the same bit for bit on every platform and library version: the only
randomness is numpy's PCG64 `random_raw` stream (whose values numpy guarantees), turned into indices by the
integer arithmetic below. A golden test holds it.
"""

from __future__ import annotations

import numpy as np
import torch

_CHUNK = 4096  # atoms whose (chunk, d_in) membership mask is alive at once


def check_degree(d_in: int, degree: int) -> None:
    """Raise ValueError unless 1 <= degree <= d_in."""
    if not 1 <= degree <= d_in:
        raise ValueError(f"d={degree} must be in 1..{d_in} (d_in, the rows that an atom can use)")


def expander_support(d_in: int, n_latents: int, degree: int, seed: int) -> torch.Tensor:
    """Each atom's rows: an independent uniform `degree`-subset of the `d_in` rows, every row covered.

    Floyd's algorithm per atom: for c = 0..degree-1 let j = d_in - degree + c and t = floor(u * (j+1) / 2^32), u the
    upper 32 bits of the atom's c-th raw draw; take t, or j if t is taken. Then every row that no atom uses is
    given to the next atom that a fresh draw names and that has a row used more than once (paper, section 2: repair).

    Returns:
        int64 (n_latents, degree), sorted along the second axis.

    Raises:
        ValueError: degree outside 1..d_in, or n_latents < 1.
    """
    check_degree(d_in, degree)
    if n_latents < 1:
        raise ValueError(f"n={n_latents} must be at least 1")
    if degree == d_in:
        return torch.arange(d_in).repeat(n_latents, 1)
    bits = np.random.PCG64(seed)
    support = np.concatenate(
        [_floyd_subsets(d_in, min(_CHUNK, n_latents - start), degree, bits) for start in range(0, n_latents, _CHUNK)]
    )
    _cover_every_row(support, d_in, bits)
    return torch.from_numpy(np.sort(support, axis=1))


def clustered_support(d_in: int, n_latents: int, degree: int, seed: int) -> torch.Tensor:
    """The structured mask (paper, section 4): rows cut into floor(d_in / degree) disjoint blocks, an atom gets one.

    The block is floor(u * blocks / 2^32), u the upper 32 bits of the atom's raw draw; rows past the last block are used
    by no atom. Returns int64 (n_latents, degree), sorted; raises as `expander_support`.
    """
    check_degree(d_in, degree)
    if n_latents < 1:
        raise ValueError(f"n={n_latents} must be at least 1")
    blocks = _bounded(np.random.PCG64(seed).random_raw(n_latents), d_in // degree)
    return torch.from_numpy(blocks[:, None] * degree + np.arange(degree))


def _bounded(draws: np.ndarray, bounds: int) -> np.ndarray:
    """Map raw 64-bit draws to 0..bounds-1 by the multiply-shift method on their upper 32 bits (bias < bounds/2^32)."""
    return ((draws >> np.uint64(32)) * np.uint64(bounds) >> np.uint64(32)).astype(np.int64)


def _floyd_subsets(d_in: int, n_atoms: int, degree: int, bits: np.random.PCG64) -> np.ndarray:
    draws = bits.random_raw(n_atoms * degree).reshape(n_atoms, degree)
    taken = np.zeros((n_atoms, d_in), dtype=bool)
    atoms = np.arange(n_atoms)
    for c in range(degree):
        j = d_in - degree + c
        t = _bounded(draws[:, c], j + 1)
        pick = np.where(taken[atoms, t], j, t)
        taken[atoms, pick] = True
    return np.nonzero(taken)[1].reshape(n_atoms, degree)


def _cover_every_row(support: np.ndarray, d_in: int, bits: np.random.PCG64) -> None:
    """Move one entry of some atom to each empty row, in place, never emptying another row."""
    row_degree = np.bincount(support.ravel(), minlength=d_in)
    n_latents = len(support)
    for row in np.nonzero(row_degree == 0)[0]:
        first = int(_bounded(np.array([bits.random_raw()], dtype=np.uint64), n_latents)[0])
        for atom in (*range(first, n_latents), *range(first)):
            entry = int(np.argmax(row_degree[support[atom]]))
            if row_degree[support[atom, entry]] > 1:
                row_degree[support[atom, entry]] -= 1
                row_degree[row] += 1
                support[atom, entry] = row
                break
        else:
            return  # n_latents * degree < d_in: no entry is spare, some rows stay empty
