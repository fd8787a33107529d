"""Measures of how latents are used on a text, and of how their atoms' supports overlap, for a run's record.

Token entropy, split-half reliability and active-support collisions are named by the paper (section Measures) without
formulas; the functions below state the formulas used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.theory import expansion_deficits, row_degrees

NEAR_DEAD_RATE = 1e-3  # firings per token: a dozen in the paper's 12,800 tokens; measures of a rarer latent are noise
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
LOG10_EDGES = tuple(-5 + i / 4 for i in range(21))  # log10 of the firing rates that bound the bins, from 1e-5 to 1
_CHUNK_VALUES = 1 << 22  # most entries of active atoms that are in memory at once


@dataclass(frozen=True, eq=False)
class Activity:
    """The latents that fired on each of T tokens, read window after window.

    Args:
        latents: int64 (T, k), no latent twice on a token; -1 where fewer than k fired.
        n_latents: number of latents of the SAE.
        tokens: int64 (T,), token ids.
        windows: int64 (T,), the window that each token is from; the tokens of a window lie together and in order.

    Raises:
        ValueError: there are no tokens, shapes differ from these, latents are outside -1..n_latents-1 or twice on a
            token, ids are negative, or the tokens of a window do not lie together.
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
        """Return the index of each window's first token: int64 (windows,)."""
        changes = torch.nonzero(self.windows[1:] != self.windows[:-1]).flatten() + 1
        return torch.cat([changes.new_zeros(1), changes])

    def firings(self) -> tuple[Tensor, Tensor]:
        """Return (token, latent) of each time that a latent fired, in order of tokens: two int64 (firings,)."""
        token, slot = torch.nonzero(self.latents >= 0, as_tuple=True)
        return token, self.latents[token, slot]

    def counts(self) -> Tensor:
        """Return the number of tokens on which each latent fired: int64 (n_latents,)."""
        return self.firings()[1].bincount(minlength=self.n_latents)

    def part(self, keep: Tensor) -> Activity:
        """Return the activity on those tokens for which `keep`, bool (T,), is true."""
        return Activity(self.latents[keep], self.n_latents, self.tokens[keep], self.windows[keep])


def activity_of(codes: Tensor, indices: Tensor, n_latents: int, tokens: Tensor, windows: Tensor) -> Activity:
    """Return the activity of an SAE's codes and indices, both (T, k): a latent fires where its code is not 0."""
    return Activity(indices.to(torch.int64).masked_fill(codes == 0, -1), n_latents, tokens, windows)


def activity_measures(activity: Activity, support: Tensor | None) -> dict[str, Any]:
    """Measure all latents together, ready for a record.

    Args:
        support: int64 (n_latents, degree), rows of each atom; None where atoms are dense.

    Returns:
        tokens                  T, the number of tokens that everything else is measured on
        dead_fraction           share of latents that never fired
        near_dead_fraction      share of latents that fired, but at a rate below `near_dead_rate`
        near_dead_rate          the bound, in firings per token
        firing_rate_quantiles   quantiles over all latents; a dead one has rate 0
        firing_rate_histogram   number of live latents with a rate from one of `log10_edges` up to the next; lower rates
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
    """Return -sum_v p(v) log2 p(v) of each latent, p(v) the share of its firings on token id v: float64 (n_latents,).

    The unit is bits; a dead latent has NaN. The entropy is 0 for a latent of one token id, and at most log2 of the
    number of firings. So the entropy of a rare latent comes out low: compare only at the same T and at similar rates.
    """
    token, latent = activity.firings()
    ids = int(activity.tokens.max()) + 1
    pairs, counts = torch.unique(latent * ids + activity.tokens[token], return_counts=True)
    of_latent, c = pairs // ids, counts.double()
    total = of_latent.bincount(c, minlength=activity.n_latents)
    return total.log2() - of_latent.bincount(c * c.log2(), minlength=activity.n_latents) / total


def split_half_reliability(activity: Activity) -> float | None:
    """Return 2r / (1 + |r|), r the rank correlation over latents of firing rates in windows of even and of odd number.

    For r >= 0 this is the formula of Spearman and Brown (1910): if r is the reliability of rates over half of the
    tokens, the formula gives the reliability of rates over all T. For r < 0, where it would leave -1..1, its mirror
    image is taken. Ranks are compared, because rates span decades and a dead latent has no logarithm; latents that fire
    equally often, dead ones among them, share their mean rank. The result is None where it is undefined: there are
    windows of one parity only, or all latents fire equally often.
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
    """Return the mean over tokens of 1 - |N(S)| / (|S| d), S the atoms active on a token and N(S) the rows they use.

    This is the share of these atoms' entries that lie on a row that another of the atoms uses already
    (`expansion_deficits`). Tokens on which nothing fires do not count; the result is None if there are no others.
    """
    atoms = activity.latents.masked_fill(activity.latents >= len(support), -1)  # the others are no atoms: always on
    sets = atoms[(atoms >= 0).any(1)]
    # A latent that is twice in a set counts once, so any active latent can fill the places of missing ones.
    sets = torch.where(sets < 0, sets.amax(1, keepdim=True), sets).to(support.device)
    d_in = int(support.max()) + 1
    size = max(1, _CHUNK_VALUES // max(d_in, sets.shape[1] * support.shape[1]))
    deficits = [expansion_deficits(support, part, d_in) for part in sets.split(size)]
    return mean_or_none(torch.cat(deficits))


def support_measures(dictionary: Dictionary) -> dict[str, float | None] | None:
    """Measure exactly how much the supports of all atoms overlap; None where atoms are dense.

    It takes no walk over pairs: a row that r atoms use is shared by r(r-1)/2 of the n(n-1)/2 pairs.
    `theory.theory_measures` tells how evenly rows are used.

    Returns:
        distinct_fraction  number of distinct supports / n
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
    """Return the mean in float64; None of no values."""
    return float(values.double().mean()) if len(values) else None


def _histogram(rates: Tensor) -> list[int]:
    """Count the rates, all above 0, in each bin of LOG10_EDGES."""
    edges = torch.tensor(LOG10_EDGES[1:-1], dtype=torch.float64)
    bins = torch.bucketize(rates.log10().cpu(), edges, right=True)  # an edge belongs to the bin above it
    return bins.bincount(minlength=len(LOG10_EDGES) - 1).tolist()


def _ranks(values: Tensor) -> Tensor:
    """Return ranks from 1, equal values sharing their mean rank: float64."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1).double() / 2)[place]
