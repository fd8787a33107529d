"""Correlations of latents' codes over tokens, from the codes that are not 0 alone.

A latent's activation on a token is its code there, 0 where it does not fire. Two latents of two SAEs that read the same
tokens are alike, whatever their atoms, as far as their activations correlate (Pearson).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_array
from torch import Tensor

_CHUNK_VALUES = 1 << 24  # pairs of latents in memory at once

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def code_matrix(codes: Tensor, indices: Tensor, n_latents: int) -> csc_array:
    """Return the codes of T tokens as a sparse matrix (T, n_latents), float64.

    Args:
        codes, indices: (T, k), as `sae_core.sae.SAE.encode` returns them; a latent with code 0 does not fire.
    """
    values, latents = codes.detach().cpu().double().numpy(), indices.cpu().numpy()
    token, slot = np.nonzero(values)
    shape = (len(values), n_latents)
    return csc_array((values[token, slot], (token, latents[token, slot])), shape=shape)


def fires(codes: csc_array) -> npt.NDArray[np.bool_]:
    """Return which latents fire on any of the tokens, bool (n_latents,)."""
    return np.diff(codes.indptr) > 0


def correlations(ours: csc_array, theirs: csc_array) -> Floats:
    """Return the correlation of latent i of one SAE with latent i of the other, for each i: float64 (n_latents,).

    It is NaN where either never fires, or fires with the same code on every token.

    Args:
        ours, theirs: (T, n_latents) of the same tokens.
    """
    products = np.asarray(ours.multiply(theirs).sum(axis=0))
    return _scaled(products, _shape(ours)[0], *_moments(ours), *_moments(theirs))


def best_matches(ours: csc_array, theirs: csc_array) -> tuple[Ints, Ints]:
    """Return (for each of our latents the one of theirs, for each of theirs the one of ours) of highest correlation.

    A latent without a correlation, because it does not vary, is the match of none; its own match is any.

    Args:
        ours: (T, n) and theirs (T, n') of the same tokens.
    """
    (_, n), (_, other) = _shape(ours), _shape(theirs)
    of_ours, of_theirs = np.zeros(n, dtype=np.int64), np.zeros(other, dtype=np.int64)
    best = np.full(other, -np.inf)
    for first, table in _tables(ours, theirs):
        known = np.nan_to_num(table, nan=-2.0)
        of_ours[first : first + len(known)] = known.argmax(1)
        at = known.argmax(0)
        value = known[at, np.arange(other)]
        better = value > best
        of_theirs[better], best[better] = at[better] + first, value[better]
    return of_ours, of_theirs


def _shape(codes: csc_array) -> tuple[int, int]:
    """Return (tokens, latents)."""
    shape = codes.shape
    assert shape is not None, "a matrix has one"
    return int(shape[0]), int(shape[1])


def _tables(ours: csc_array, theirs: csc_array) -> Iterator[tuple[int, Floats]]:
    """Yield (i, correlations of our latents from i on with all of theirs), a few latents at a time."""
    (tokens, n), (_, other) = _shape(ours), _shape(theirs)
    (mean, deviation), (their_mean, their_deviation) = _moments(ours), _moments(theirs)
    by_token = theirs.tocsr()
    for first in range(0, n, size := max(1, _CHUNK_VALUES // other)):
        part = slice(first, first + size)
        products = (ours[:, part].T @ by_token).toarray()
        row, row_deviation = mean[part, None], deviation[part, None]
        yield first, _scaled(products, tokens, row, row_deviation, their_mean, their_deviation)


def _moments(codes: csc_array) -> tuple[Floats, Floats]:
    """Return each latent's mean and standard deviation over all tokens; the latter is NaN where it does not vary."""
    count = _shape(codes)[0]
    mean = np.asarray(codes.sum(axis=0)) / count
    square = np.asarray(codes.multiply(codes).sum(axis=0)) / count
    variance = square - mean**2
    variance[variance <= 1e-12 * square] = np.nan
    return mean, np.sqrt(variance)


def _scaled(products: Floats, tokens: int, mean: Floats, deviation: Floats, other: Floats, spread: Floats) -> Floats:
    """Return correlations, given the sums of products over tokens and the moments of both sides."""
    return np.clip((products / tokens - mean * other) / (deviation * spread), -1, 1)
