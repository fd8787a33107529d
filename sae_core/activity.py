"""How latents are used on some text, and how the supports of their atoms lie: numbers for a record.

Token entropy, split-half reliability and active-support collisions are named by the paper (section Measures) without
formulas; the formulas are those of the functions below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.theory import expansion_deficits, row_degrees

NEAR_DEAD_RATE = 1e-3  # a dozen firings in the paper's 12,800 tokens: below, what is measured of a latent is noise
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
LOG10_EDGES = tuple(-5 + i / 4 for i in range(21))  # of firing rates, from 1e-5 to 1
_CHUNK_VALUES = 1 << 22  # of the rows of active atoms, alive at once


@dataclass(frozen=True, eq=False)
class Activity:
    """Which latents fired on each of T tokens, read window after window.

    Args:
        latents: int64 (T, k), no latent twice on a token; -1 where fewer than k fired.
        n_latents: of the SAE.
        tokens: int64 (T,), token ids.
        windows: int64 (T,), which window each token is from; the tokens of one lie together and in order.

    Raises:
        ValueError: no tokens, other shapes, latents outside -1..n_latents-1 or twice on a token, negative ids, a window
            that is left and entered again.
    """

    latents: Tensor
    n_latents: int
    tokens: Tensor
    windows: Tensor

    def __post_init__(self):
        count = len(self.latents)
        if self.latents.ndim != 2 or self.latents.numel() == 0:
            raise ValueError(f"latents of shape {tuple(self.latents.shape)} must be (tokens, k), both at least 1")
        for name, ids in (("tokens", self.tokens), ("windows", self.windows)):
            if ids.shape != (count,):
                raise ValueError(f"{name} of shape {tuple(ids.shape)} must be ({count},), one for each row of latents")
            if int(ids.min()) < 0:
                raise ValueError(f"{name}: {int(ids.min())} is negative")
        first, last = int(self.latents.min()), int(self.latents.max())
        if first < -1 or last >= self.n_latents:
            raise ValueError(f"latents {first}..{last} must be in -1..{self.n_latents - 1}")
        ordered = self.latents.sort(dim=1).values
        if bool(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()):
            raise ValueError("latents: a token names a latent twice")
        if len(self.window_starts()) != len(self.windows.unique()):
            raise ValueError("windows: the tokens of each window must lie together")

    def window_starts(self) -> Tensor:
        """Index of each window's first token: int64 (windows,)."""
        changes = torch.nonzero(self.windows[1:] != self.windows[:-1]).flatten() + 1
        return torch.cat([changes.new_zeros(1), changes])

    def firings(self) -> tuple[Tensor, Tensor]:
        """(token, latent) of each time that a latent fired, in order of tokens: two int64 (firings,)."""
        token, slot = torch.nonzero(self.latents >= 0, as_tuple=True)
        return token, self.latents[token, slot]

    def counts(self) -> Tensor:
        """On how many tokens each latent fired: int64 (n_latents,)."""
        return self.firings()[1].bincount(minlength=self.n_latents)

    def part(self, keep: Tensor) -> Activity:
        """The same on the tokens where `keep`, bool (T,), holds."""
        return Activity(self.latents[keep], self.n_latents, self.tokens[keep], self.windows[keep])


def activity_of(codes: Tensor, indices: Tensor, n_latents: int, tokens: Tensor, windows: Tensor) -> Activity:
    """The activity that an SAE's codes and indices, both (T, k), mean: a latent fires where its code is not 0."""
    return Activity(indices.to(torch.int64).masked_fill(codes == 0, -1), n_latents, tokens, windows)


def activity_measures(activity: Activity, support: Tensor | None) -> dict[str, Any]:
    """Numbers about all latents together, ready for a record.

    Args:
        support: int64 (n_latents, degree), rows of each atom; None where atoms are dense.

    Returns:
        tokens                  T, to which everything else refers
        dead_fraction           share of latents that never fired
        near_dead_fraction      share that fired, at a rate below `near_dead_rate`
        near_dead_rate          firings a token
        firing_rate_quantiles   over all latents, dead ones among them with rate 0
        firing_rate_histogram   how many live latents have a rate from one of `log10_edges` up to the next; lower ones
                                are counted in the first bin
        token_entropy           mean of `token_entropies` over live latents, bits; None if all are dead
        split_half_reliability  see `split_half_reliability`
        collisions              see `collisions`; None where atoms are dense
    """
    counts = activity.counts()
    rates = counts.double() / len(activity.tokens)
    quantiles = rates.quantile(rates.new_tensor(QUANTILES)).tolist()
    return {
        "tokens": len(activity.tokens),
        "dead_fraction": float((counts == 0).double().mean()),
        "near_dead_fraction": float(((counts > 0) & (rates < NEAR_DEAD_RATE)).double().mean()),
        "near_dead_rate": NEAR_DEAD_RATE,
        "firing_rate_quantiles": {str(q): value for q, value in zip(QUANTILES, quantiles, strict=True)},
        "firing_rate_histogram": {"log10_edges": list(LOG10_EDGES), "counts": _histogram(rates[counts > 0])},
        "token_entropy": mean_or_none(token_entropies(activity)[counts > 0]),
        "split_half_reliability": split_half_reliability(activity),
        "collisions": None if support is None else collisions(activity, support),
    }


def token_entropies(activity: Activity) -> Tensor:
    """-sum_v p(v) log2 p(v) of each latent, p(v) the share of its firings that are on token id v: float64 (n_latents,).

    In bits; NaN where dead. 0 for a latent of one token id, at most log2 of its firings: those of rare latents come out
    low, and only figures at the same T and like rates compare.
    """
    token, latent = activity.firings()
    ids = int(activity.tokens.max()) + 1
    pairs, counts = torch.unique(latent * ids + activity.tokens[token], return_counts=True)
    of_latent, c = pairs // ids, counts.double()
    total = of_latent.bincount(c, minlength=activity.n_latents)
    return total.log2() - of_latent.bincount(c * c.log2(), minlength=activity.n_latents) / total


def split_half_reliability(activity: Activity) -> float | None:
    """2r / (1 + |r|), r the rank correlation over latents of firing rates in windows of even and of odd number.

    Spearman-Brown (1910), for r >= 0: the reliability of rates over all T tokens, when r is that of rates over half of
    them; below 0, where that formula leaves -1..1, its mirror image. Ranks, because rates span decades and a dead
    latent has no logarithm: latents that fire equally often, dead ones among them, share their mean rank. None where
    it is undefined: windows of one parity only, or all latents equally often active.
    """
    odd = activity.windows[activity.firings()[0]] % 2 == 1
    latent = activity.firings()[1]
    a, b = (_ranks(latent[half].bincount(minlength=activity.n_latents)) for half in (~odd, odd))
    a, b = a - a.mean(), b - b.mean()
    norm = float(a.norm() * b.norm())
    if norm == 0:
        return None
    r = float(a @ b) / norm
    return 2 * r / (1 + abs(r))


def collisions(activity: Activity, support: Tensor) -> float | None:
    """Mean over tokens of 1 - |N(S)| / (|S| d), S the atoms active on a token and N(S) the rows that they use.

    The share of their entries that lie on a row which another of them has taken already (`expansion_deficits`). Tokens
    on which nothing fires do not count; None if there are no others.
    """
    sets = activity.latents[(activity.latents >= 0).any(1)]
    # A name that comes twice in a set counts once, so any active latent can stand for the missing ones.
    sets = torch.where(sets < 0, sets.amax(1, keepdim=True), sets).to(support.device)
    d_in = int(support.max()) + 1
    size = max(1, _CHUNK_VALUES // max(d_in, sets.shape[1] * support.shape[1]))
    deficits = [expansion_deficits(support, part, d_in) for part in sets.split(size)]
    return mean_or_none(torch.cat(deficits))


def support_measures(dictionary: Dictionary) -> dict[str, float | None] | None:
    """How the supports of all atoms lie, exactly; None where atoms are dense. `theory.theory_measures` has the balance of rows.

    Pairs need not be looked at: a row that r atoms use is shared by r(r-1)/2 of the n(n-1)/2 pairs.

    Returns:
        distinct_fraction  distinct supports / n
        mean_overlap       mean over pairs of atoms of |N(i) & N(j)| / d; None for a single atom
    """
    if dictionary.support is None:
        return None
    n, d = dictionary.support.shape
    degrees = row_degrees(dictionary).double()
    shared = float((degrees * (degrees - 1)).sum())
    return {
        "distinct_fraction": len({rows.tobytes() for rows in dictionary.support.cpu().numpy()}) / n,
        "mean_overlap": shared / (d * n * (n - 1)) if n > 1 else None,
    }


def mean_or_none(values: Tensor) -> float | None:
    """Mean in float64; None where there is nothing to take it of."""
    return float(values.double().mean()) if len(values) else None


def _histogram(rates: Tensor) -> list[int]:
    edges = torch.tensor(LOG10_EDGES[1:-1], dtype=torch.float64)
    bins = torch.bucketize(rates.log10().cpu(), edges, right=True)  # an edge belongs to the bin above it
    return bins.bincount(minlength=len(LOG10_EDGES) - 1).tolist()


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1, equal values sharing their mean rank: float64."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1).double() / 2)[place]
