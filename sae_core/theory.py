"""Properties of a dictionary that can be proved, or at least measured: W (m, n), unit atoms w_j of d non-zeros each.

Where atoms are sparse in a basis other than the neurons' (`sae_core.bases`), entries, rows and supports are those in
the basis; inner products are the same in both.

Every value says of which kind it is:

    exact     computed from all atoms
    estimate  taken over a sample: of random sets of atoms, or of those that were active together
    bound     a lower bound: the largest value over a sample of something whose maximum is over all sets

Sources: expansion, flatness and the certificates are the paper's, section 3 (Theorem 3.1, Corollary 3.2); coherence and
the Babel function, Tropp 2004 (Greed is good), sections 2.2 and 3.1; short cycles, the girth of the bipartite graph of
atoms and rows (Tanner 1981).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.kernels.reference import densify

EXACT, ESTIMATE, BOUND = "exact", "estimate", "bound"
SAMPLE = 2000  # most sets of atoms that an estimate or a bound looks at
MANY, SOME = 1 << 16, 256  # of more atoms than MANY, SOME are compared with all, in place of all: the work grows as n^2
_CHUNK_VALUES = 1 << 24  # most entries of the Gram matrix that are in memory at once


class Value(NamedTuple):
    """A number, and how it is meant."""

    value: float
    kind: str  # EXACT, ESTIMATE or BOUND


def flatness(dictionary: Dictionary) -> Tensor:
    """Return beta_j = sqrt(d) * max_i |W_ij| of each atom: (n,).

    It is in 1..sqrt(d), and 1 where all entries of the atom are of one size.
    """
    return dictionary.unit_values().detach().abs().amax(1) * dictionary.degree**0.5


def babel(dictionary: Dictionary, k: int) -> Tensor:
    """Return mu_1(s) for s = 1..k, the largest sum of |<w_i, w_j>| over s atoms j other than i: (k,).

    mu_1(1) is the coherence. mu_1(k) + mu_1(k-1) < 1 is Tropp's condition for OMP to find every k-sparse code.
    Of more than MANY atoms, i runs over SOME of them only: what is returned is a lower bound.
    """
    atoms, support, n = dictionary.unit_values().detach(), dictionary.support, dictionary.n_latents
    k = min(k, n - 1)
    best = atoms.new_zeros(max(k, 0))
    for those, products in _against_all(atoms, support, dictionary.d_in):
        products = products.abs_()
        products[those, torch.arange(len(those), device=atoms.device)] = 0
        best = torch.maximum(best, products.topk(k, dim=0).values.cumsum(0).amax(1))
    return best


def pairs_sharing_two_rows(dictionary: Dictionary) -> int:
    """Count the pairs of atoms with two or more rows in common; each is a cycle of length 4 in the bipartite graph.

    Where atoms are dense and there is more than one row, these are all pairs. Of more than MANY sparse atoms, the pairs
    with SOME of them are counted and scaled up: an estimate.
    """
    support, n = dictionary.support, dictionary.n_latents
    if support is None:
        return n * (n - 1) // 2 if dictionary.d_in > 1 else 0
    ones = torch.ones(support.shape, device=support.device)
    # A product of two 0/1 atoms counts their common rows: above 1.5 it is two or more.
    looked_at = found = 0
    for those, products in _against_all(ones, support, dictionary.d_in):
        looked_at += len(those)
        found += int((products > 1.5).sum())
    with_itself = looked_at if dictionary.degree > 1 else 0
    return (found - with_itself) * n // looked_at // 2  # each pair is found twice


def _against_all(atoms: Tensor, support: Tensor | None, d_in: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (those (c,), products (n, c)) of all atoms with some of them, a chunk of c atoms at a time.

    In the end these are all atoms, or SOME of them, evenly spread, where there are more than MANY.
    """
    n, degree = atoms.shape
    count = max(1, _CHUNK_VALUES // n)
    by_gathers = support is not None and degree * 16 < d_in
    dense = atoms if by_gathers else densify(atoms, support, d_in)
    looked_at = torch.arange(n, device=atoms.device)
    if n > MANY:
        looked_at = looked_at[:: -(-n // SOME)]
    for those in looked_at.split(count):
        some = densify(atoms[those], None if support is None else support[those], d_in)
        if by_gathers and support is not None:
            yield those, F.embedding_bag(support, some.T.contiguous(), mode="sum", per_sample_weights=atoms)
        else:
            yield those, dense @ some.T


def row_degrees(dictionary: Dictionary) -> Tensor:
    """Return the number of atoms that use each row: (m,)."""
    if dictionary.support is None:
        return torch.full((dictionary.d_in,), dictionary.n_latents)
    return dictionary.support.flatten().bincount(minlength=dictionary.d_in).cpu()


def expansion_deficits(support: Tensor, sets: Tensor, d_in: int) -> Tensor:
    """Return e(S) = 1 - |N(S)| / (d |S|) of each set S of atoms, N(S) being the rows that S uses: (s,).

    It is 0 where no two atoms of S share a row.

    The support is a (k, e, d)-expander when no set of at most k atoms has a larger deficit than e.

    Args:
        sets: int (s, size), a set of atoms in each row; an atom that is named twice counts once.
    """
    used = torch.zeros(len(sets), d_in, dtype=torch.bool, device=support.device)
    used.scatter_(1, support[sets].flatten(1), True)
    ordered = sets.sort(dim=1).values
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
    return 1 - used.sum(1).double() / (support.shape[1] * distinct)


def r_id(beta: float, deficit: float) -> float:
    """Return R_id(k) = 2 beta^2 e(2k): below 1, k-sparse codes are unique (Theorem 3.1)."""
    return 2 * beta**2 * deficit


def r_omp(beta: float, deficit: float, k: int) -> float:
    """Return R_omp(k) = beta^2 e(k+1) (2k+1): below 1, OMP finds every k-sparse support in k steps (Corollary 3.2)."""
    return beta**2 * deficit * (2 * k + 1)


def active_sets(codes: Tensor, indices: Tensor, k: int) -> Tensor:
    """Return the latents that each token uses, its k strongest where they are more: int (tokens, k).

    A token that uses fewer names its strongest again, and counts once for sets of atoms (`expansion_deficits`). Tokens
    that use none are left out, unless no token uses any.

    Args:
        codes, indices: (tokens, at least k); a code of 0 says that the latent is not used.
    """
    some = (codes != 0).any(1)
    if bool(some.any()):
        codes, indices = codes[some], indices[some]
    strength = codes.abs()
    strongest = indices.gather(1, strength.argmax(1, keepdim=True))
    if codes.shape[1] > k:
        strength, order = strength.topk(k, dim=1)
        indices = indices.gather(1, order)
    return torch.where(strength > 0, indices, strongest)


def theory_measures(dictionary: Dictionary, active: Tensor, seed: int = 0) -> dict[str, Any]:
    """Measure flatness, coherence, Babel function, supports and certificates, ready for a record.

    Args:
        active: int (tokens, k), the active latents of each of some tokens, see `active_sets`.
        seed: draws the random sets, and which of the active latents are looked at.

    Returns:
        {name: {"value", "kind"}}; the names about supports only where atoms are sparse. `certificates` holds lists:

        - k: the values of k at which the other lists are evaluated;
        - r_id_random, r_omp_random: with the largest deficit found among random sets of atoms;
        - r_id_observed, r_omp_observed: with the largest deficit found among sets that occur, the active latents of two
          tokens taken together, which are at most 2k (or k+1) atoms.

        All use the largest flatness, and all are lower bounds: a value above 1 shows that the certificate does not
        hold; a value below 1 proves nothing.
    """
    k, beta = active.shape[1], flatness(dictionary)
    sums = babel(dictionary, k)
    over_pairs = EXACT if dictionary.n_latents <= MANY else BOUND
    values = {
        "flatness_mean": Value(float(beta.mean()), EXACT),
        "flatness_max": Value(float(beta.max()), EXACT),
        "coherence": Value(float(sums[:1].sum()), over_pairs),  # 0 for a single atom, which has no sums
        "babel": Value(float(sums[-1:].sum()), over_pairs),
        "babel_omp": Value(float(sums[-2:].sum()), over_pairs),  # mu_1(k) + mu_1(k-1)
    }
    found: dict[str, Any] = {}
    if dictionary.support is not None:
        values |= _support_values(dictionary)
        rng = np.random.default_rng(seed)
        sets = _AtomSets(dictionary.support, active, dictionary.d_in, rng)
        values |= sets.deficits()
        found["certificates"] = sets.certificates(float(beta.max()))
    return {**{name: value._asdict() for name, value in values.items()}, **found}


def _support_values(dictionary: Dictionary) -> dict[str, Value]:
    """Measure how evenly rows are used, and how many pairs of atoms share two rows."""
    degrees = row_degrees(dictionary).double()
    over_pairs = EXACT if dictionary.n_latents <= MANY else ESTIMATE
    return {
        "row_degree_min": Value(float(degrees.min()), EXACT),
        "row_degree_max": Value(float(degrees.max()), EXACT),
        "row_degree_spread": Value(float(degrees.std(correction=0) / degrees.mean()), EXACT),
        "coverage": Value(float((degrees > 0).double().mean()), EXACT),
        "pairs_sharing_two_rows": Value(float(pairs_sharing_two_rows(dictionary)), over_pairs),
    }


class _AtomSets:
    """Sets of atoms to look at: some drawn at random, others from atoms that were active together."""

    def __init__(self, support: Tensor, active: Tensor, d_in: int, rng: np.random.Generator):
        self.support, self.d_in, self.rng = support, d_in, rng
        self.active = active.cpu()[torch.from_numpy(rng.permutation(len(active))[: 2 * SAMPLE])]
        self._drawn = self._draw(min(2 * active.shape[1], len(support)))

    def deficits(self) -> dict[str, Value]:
        """Measure the deficits of sets of k atoms: mean, 95th percentile and largest."""
        k, found = self.active.shape[1], {}
        for where, sets in (("observed", self.active[:SAMPLE]), ("random", self._random(k))):
            deficit = self._deficits(sets)
            found[f"deficit_{where}_mean"] = Value(float(deficit.mean()), ESTIMATE)
            found[f"deficit_{where}_p95"] = Value(float(deficit.quantile(0.95)), ESTIMATE)
            found[f"deficit_{where}_max"] = Value(float(deficit.max()), BOUND)
        return found

    def certificates(self, beta: float) -> dict[str, Any]:
        """Return lower bounds of R_id and R_omp at several sparsities, for atoms of flatness `beta`."""
        k, n = self.active.shape[1], len(self.support)
        ks = [s for s in (2**i for i in range(20)) if s < k] + [k]
        ks = [s for s in ks if 2 * s <= n]
        found: dict[str, Any] = {"k": ks, "kind": BOUND}
        for where, draw in (("random", self._random), ("observed", self._observed)):
            found[f"r_id_{where}"] = [r_id(beta, float(self._deficits(draw(s, s)).max())) for s in ks]
            found[f"r_omp_{where}"] = [r_omp(beta, float(self._deficits(draw(s, 1)).max()), s) for s in ks]
        return found

    def _random(self, size: int, more: int = 0) -> Tensor:
        """Return sets of `size` + `more` atoms, each atom equally likely: (sets, size + more).

        Smaller sets are parts of the larger ones, so that atoms are drawn once for all sizes.
        """
        return self._drawn[:, : size + more]

    def _draw(self, size: int) -> Tensor:
        """Draw sets of `size` different atoms in random order: (sets, size)."""
        keys = torch.from_numpy(self.rng.random((self._count(), len(self.support))))
        return keys.topk(size, dim=1).indices

    def _count(self) -> int:
        return max(1, min(SAMPLE, _CHUNK_VALUES // len(self.support)))

    def _observed(self, from_one: int, from_other: int) -> Tensor:
        """Join `from_one` of a token's active atoms with `from_other` of another token's; the two may share atoms."""
        half = max(1, len(self.active) // 2)
        first, second = self._subsets(self.active[:half], from_one), self._subsets(self.active[-half:], from_other)
        return torch.cat([first, second], 1)

    def _subsets(self, sets: Tensor, size: int) -> Tensor:
        """Draw `size` atoms of each set (sets, k): (sets, size)."""
        keys = torch.from_numpy(self.rng.random(sets.shape))
        return sets.gather(1, keys.topk(size, dim=1).indices)

    def _deficits(self, sets: Tensor) -> Tensor:
        return expansion_deficits(self.support, sets.to(self.support.device), self.d_in)
