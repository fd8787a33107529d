"""What can be proved, or at least measured, about a dictionary: W (m, n), atoms w_j of unit norm, d non-zeros each.

Every value says what it is:

    exact     computed from all atoms
    estimate  over a sample: of random sets of atoms, or of those that were active together
    bound     a lower bound, the largest over a sample of something that is a maximum over all sets

Sources: expansion, flatness and the certificates are the paper's, section 3 (Theorem 3.1, Corollary 3.2); coherence and
the Babel function, Tropp 2004 (Greed is good), sections 2.2 and 3.1; short cycles, the girth of the bipartite graph of
atoms and rows (Tanner 1981).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.kernels.reference import densify

EXACT, ESTIMATE, BOUND = "exact", "estimate", "bound"
SAMPLE = 2000  # sets of atoms that an estimate or a bound looks at, at most
_CHUNK_VALUES = 1 << 24  # of the Gram matrix, alive at once


class Value(NamedTuple):
    value: float
    kind: str  # exact, estimate or bound


def flatness(dictionary: Dictionary) -> Tensor:
    """beta_j = sqrt(d) * max_i |W_ij| of each atom, in 1..sqrt(d): 1 where all entries are of one size. (n,)"""
    return dictionary.unit_values().detach().abs().amax(1) * dictionary.degree**0.5


def babel(dictionary: Dictionary, k: int) -> Tensor:
    """mu_1(s) for s = 1..k: the largest sum of |<w_i, w_j>| over s atoms j other than i. mu_1(1) is the coherence. (k,)

    mu_1(k) + mu_1(k-1) < 1 is Tropp's condition for OMP to find every k-sparse code.
    """
    atoms, support, n = dictionary.unit_values().detach(), dictionary.support, dictionary.n_latents
    k = min(k, n - 1)
    best = atoms.new_zeros(max(k, 0))
    for first, products in _against_all(atoms, support, dictionary.d_in):
        own = torch.arange(products.shape[1], device=atoms.device)
        products = products.abs_()
        products[first + own, own] = 0
        best = torch.maximum(best, products.topk(k, dim=0).values.cumsum(0).amax(1))
    return best


def pairs_sharing_two_rows(dictionary: Dictionary) -> int:
    """Pairs of atoms with two or more rows in common: cycles of length 4 start there. All pairs where atoms are dense
    in more than one row."""
    support, n = dictionary.support, dictionary.n_latents
    if support is None:
        return n * (n - 1) // 2 if dictionary.d_in > 1 else 0
    ones = torch.ones(support.shape, device=support.device)
    found = sum(int((products > 1.5).sum()) for _, products in _against_all(ones, support, dictionary.d_in))
    return (found - (n if dictionary.degree > 1 else 0)) // 2  # each pair twice, and each atom with itself


def _against_all(atoms: Tensor, support: Tensor | None, d_in: int):
    """(first, products (n, c)) of all atoms with atoms first..first+c-1, a chunk at a time."""
    n, degree = atoms.shape
    count = max(1, _CHUNK_VALUES // n)
    by_gathers = support is not None and degree * 16 < d_in
    dense = atoms if by_gathers else densify(atoms, support, d_in)
    for first in range(0, n, count):
        part = slice(first, first + count)
        some = densify(atoms[part], None if support is None else support[part], d_in)
        if by_gathers and support is not None:
            yield first, F.embedding_bag(support, some.T.contiguous(), mode="sum", per_sample_weights=atoms)
        else:
            yield first, dense @ some.T


def row_degrees(dictionary: Dictionary) -> Tensor:
    """How many atoms use each row: (m,)."""
    if dictionary.support is None:
        return torch.full((dictionary.d_in,), dictionary.n_latents)
    return dictionary.support.flatten().bincount(minlength=dictionary.d_in).cpu()


def expansion_deficits(support: Tensor, sets: Tensor, d_in: int) -> Tensor:
    """e(S) = 1 - |N(S)| / (d |S|) of each row of `sets` (s, size), an atom named twice counting once: 0 where no row is
    shared. (s,)

    M is a (k, e, d)-expander when no set of at most k atoms has a larger deficit than e.
    """
    used = torch.zeros(len(sets), d_in, dtype=torch.bool, device=support.device)
    used.scatter_(1, support[sets].flatten(1), True)
    ordered = sets.sort(dim=1).values
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
    return 1 - used.sum(1).double() / (support.shape[1] * distinct)


def r_id(beta: float, deficit: float) -> float:
    """R_id(k) = 2 beta^2 e(2k): below 1, k-sparse codes are unique (Theorem 3.1)."""
    return 2 * beta**2 * deficit


def r_omp(beta: float, deficit: float, k: int) -> float:
    """R_omp(k) = beta^2 e(k+1) (2k+1): below 1, OMP finds every k-sparse support in k steps (Corollary 3.2)."""
    return beta**2 * deficit * (2 * k + 1)


def theory_measures(dictionary: Dictionary, active: Tensor, seed: int = 0) -> dict[str, Any]:
    """All of the above, ready for a record.

    Args:
        active: int (tokens, k), the latents of each of some tokens.
        seed: draws the random sets, and which of the active ones are looked at.

    Returns:
        name -> {"value", "kind"}; those about supports only where there is one. `certificates` holds lists over k:
        `k`, and `r_id` and `r_omp` with the largest deficits found among `random` sets and among `observed` ones (of
        two tokens' active latents, so at most 2k or k+1 atoms), with the largest flatness. All are lower bounds: above
        1 the certificate does not hold; below, nothing follows.
    """
    k, beta = active.shape[1], flatness(dictionary)
    sums = babel(dictionary, k)
    values = {
        "flatness_mean": Value(float(beta.mean()), EXACT),
        "flatness_max": Value(float(beta.max()), EXACT),
        "coherence": Value(float(sums[:1].sum()), EXACT),  # 0 of a single atom
        "babel": Value(float(sums[-1:].sum()), EXACT),
        "babel_omp": Value(float(sums[-2:].sum()), EXACT),
    }
    found: dict[str, Any] = {}
    if dictionary.support is not None:
        values |= _of_supports(dictionary)
        rng = np.random.default_rng(seed)
        sample = _Sets(dictionary.support, active, dictionary.d_in, rng)
        values |= sample.deficits()
        found["certificates"] = sample.certificates(float(beta.max()))
    return {**{name: value._asdict() for name, value in values.items()}, **found}


def _of_supports(dictionary: Dictionary) -> dict[str, Value]:
    degrees = row_degrees(dictionary).double()
    return {
        "row_degree_min": Value(float(degrees.min()), EXACT),
        "row_degree_max": Value(float(degrees.max()), EXACT),
        "row_degree_spread": Value(float(degrees.std(correction=0) / degrees.mean()), EXACT),
        "coverage": Value(float((degrees > 0).double().mean()), EXACT),
        "pairs_sharing_two_rows": Value(float(pairs_sharing_two_rows(dictionary)), EXACT),
    }


class _Sets:
    """Sets of atoms to look at: drawn at random, and from those active together."""

    def __init__(self, support: Tensor, active: Tensor, d_in: int, rng: np.random.Generator):
        self.support, self.d_in, self.rng = support, d_in, rng
        self.active = active.cpu()[torch.from_numpy(rng.permutation(len(active))[: 2 * SAMPLE])]

    def deficits(self) -> dict[str, Value]:
        """Of sets of k atoms: mean, 95th percentile and largest."""
        k, found = self.active.shape[1], {}
        for where, sets in (("observed", self.active[:SAMPLE]), ("random", self._random(k))):
            deficit = self._deficits(sets)
            found[f"deficit_{where}_mean"] = Value(float(deficit.mean()), ESTIMATE)
            found[f"deficit_{where}_p95"] = Value(float(deficit.quantile(0.95)), ESTIMATE)
            found[f"deficit_{where}_max"] = Value(float(deficit.max()), BOUND)
        return found

    def certificates(self, beta: float) -> dict[str, Any]:
        k, n = self.active.shape[1], len(self.support)
        ks = [s for s in (2**i for i in range(20)) if s < k] + [k]
        ks = [s for s in ks if 2 * s <= n]
        found: dict[str, Any] = {"k": ks, "kind": BOUND}
        for where, draw in (("random", self._random), ("observed", self._observed)):
            found[f"r_id_{where}"] = [r_id(beta, float(self._deficits(draw(s, s)).max())) for s in ks]
            found[f"r_omp_{where}"] = [r_omp(beta, float(self._deficits(draw(s, 1)).max()), s) for s in ks]
        return found

    def _random(self, size: int, more: int = 0) -> Tensor:
        """`size` + `more` atoms."""
        keys = torch.from_numpy(self.rng.random((self._count(), len(self.support))))
        return keys.topk(size + more, dim=1).indices

    def _count(self) -> int:
        return max(1, min(SAMPLE, _CHUNK_VALUES // len(self.support)))

    def _observed(self, of_one: int, of_other: int) -> Tensor:
        """`of_one` of the atoms that one token made active with `of_other` of another token's; some may be the same."""
        half = max(1, len(self.active) // 2)
        return torch.cat([self._some(self.active[:half], of_one), self._some(self.active[-half:], of_other)], 1)

    def _some(self, sets: Tensor, size: int) -> Tensor:
        keys = torch.from_numpy(self.rng.random(sets.shape))
        return sets.gather(1, keys.topk(size, dim=1).indices)

    def _deficits(self, sets: Tensor) -> Tensor:
        return expansion_deficits(self.support, sets.to(self.support.device), self.d_in)
