"""Left-d-regular supports: the rows that each atom may use.

A support is an int64 tensor (n_latents, degree); row i holds the sorted, distinct row indices of atom i, each in
0..d_in-1. A support drawn from a seed is the same bit for bit on every platform and library version: the only
randomness is numpy's PCG64 `random_raw` stream (whose values numpy guarantees), turned into indices by the
integer arithmetic below. Golden tests hold these bits. `SUPPORTS` has every support that a seed draws, by name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sae_core.sizes import check_degree, check_latents

_CHUNK = 4096  # number of atoms whose (chunk, d_in) membership mask is in memory at once


def expander_support(d_in: int, n_latents: int, degree: int, seed: int) -> torch.Tensor:
    """Draw each atom's rows as an independent uniform `degree`-subset of the `d_in` rows, every row covered.

    Floyd's algorithm per atom: for c = 0..degree-1 let j = d_in - degree + c and t = floor(u * (j+1) / 2^32), u the
    upper 32 bits of the atom's c-th raw draw; take t, or j if t is taken. Then every row that no atom uses is
    given to the next atom that a fresh draw names and that has a row used more than once (paper, section 2: repair).

    Returns:
        int64 (n_latents, degree), sorted along the second axis.

    Raises:
        ValueError: degree outside 1..d_in, or n_latents < 1.
    """
    _check_sizes(d_in, n_latents, degree)
    if degree == d_in:
        return torch.arange(d_in).repeat(n_latents, 1)
    bits = np.random.PCG64(seed)
    support = np.concatenate(
        [_floyd_subsets(d_in, min(_CHUNK, n_latents - start), degree, bits) for start in range(0, n_latents, _CHUNK)]
    )
    _cover_every_row(support, d_in, bits)
    return torch.from_numpy(np.sort(support, axis=1))


def clustered_support(d_in: int, n_latents: int, degree: int, seed: int) -> torch.Tensor:
    """Draw the structured mask (paper, section 4): each atom uses one of floor(d_in / degree) disjoint blocks of rows.

    An atom's block is floor(u * blocks / 2^32), u the upper 32 bits of the atom's raw draw; rows past the last block
    are used by no atom. Returns int64 (n_latents, degree), sorted; raises the errors of `expander_support`.
    """
    _check_sizes(d_in, n_latents, degree)
    blocks = _bounded(np.random.PCG64(seed).random_raw(n_latents), d_in // degree)
    return torch.from_numpy(blocks[:, None] * degree + np.arange(degree))


def banded_support(d_in: int, n_latents: int, degree: int, seed: int = 0) -> torch.Tensor:
    """Give atom i the `degree` contiguous rows from floor(i * d_in / n_latents) on, cyclically.

    `seed` changes nothing. Returns int64 (n_latents, degree), sorted; raises the errors of `expander_support`.
    """
    _check_sizes(d_in, n_latents, degree)
    first = np.arange(n_latents) * d_in // n_latents
    return torch.from_numpy(np.sort((first[:, None] + np.arange(degree)) % d_in, axis=1))


def balanced_support(d_in: int, n_latents: int, degree: int, seed: int) -> torch.Tensor:
    """Draw a support whose row degrees are equal to within one, and whose atoms share few pairs of rows.

    Atom by atom, entry by entry, greedily: among the rows used least, take the one that has shared an atom least often
    with the rows already taken for this one; 24 bits of a raw draw for each row and atom break ties. (Edges are grown
    by the same rule in LDPC codes: Hu, Eleftheriou, Arnold 2005, progressive edge growth.) How near the number of
    shared pairs comes to its least possible value is measured in `tests/sae_core/test_supports.py`.

    Returns int64 (n_latents, degree), sorted; raises the errors of `expander_support`.
    """
    _check_sizes(d_in, n_latents, degree)
    bits, support = np.random.PCG64(seed), np.empty((n_latents, degree), dtype=np.int64)
    together = np.zeros((d_in, d_in), dtype=np.int64)  # how often two rows stand in one atom
    row_degree = np.zeros(d_in, dtype=np.int64)
    for rows in support:
        cost = (bits.random_raw(d_in) >> np.uint64(40)).astype(np.int64) + ((row_degree - row_degree.min()) << 44)
        for c in range(degree):
            rows[c] = row = cost.argmin()
            cost += together[row] << 24
            cost[row] = 1 << 60
        together[rows[:, None], rows] += 1
        row_degree[rows] += 1
    return torch.from_numpy(np.sort(support, axis=1))


def top_magnitude_support(atoms: torch.Tensor, degree: int) -> torch.Tensor:
    """Return the rows of each atom's `degree` largest magnitudes, sorted: int64 (n_latents, degree).

    Where magnitudes are equal the lower row goes first. Raises ValueError for a degree outside 1..d_in.

    Args:
        atoms: dense atoms, (n_latents, d_in).
    """
    check_degree(atoms.shape[1], degree)
    order = atoms.abs().sort(dim=1, descending=True, stable=True).indices
    return order[:, :degree].sort(dim=1).values


# Every support that a seed regenerates, by the name that the files of saved SAEs keep.
SUPPORTS: dict[str, Callable[[int, int, int, int], torch.Tensor]] = {
    "expander": expander_support,
    "expander_balanced": balanced_support,
    "clustered": clustered_support,
    "banded": banded_support,
}


def _check_sizes(d_in: int, n_latents: int, degree: int) -> None:
    check_degree(d_in, degree)
    check_latents(n_latents)


def _bounded(draws: np.ndarray, bounds: int) -> np.ndarray:
    """Map raw 64-bit draws to 0..bounds-1: multiply-shift on their upper 32 bits, bias below bounds / 2^32."""
    return ((draws >> np.uint64(32)) * np.uint64(bounds) >> np.uint64(32)).astype(np.int64)


def _floyd_subsets(d_in: int, n_atoms: int, degree: int, bits: np.random.PCG64) -> np.ndarray:
    """Draw the rows of `n_atoms` atoms by the algorithm that `expander_support` states: int64 (n_atoms, degree)."""
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
            return  # n_latents * degree < d_in: no atom has an entry to spare, and some rows stay empty
