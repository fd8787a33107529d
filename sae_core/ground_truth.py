"""Which known features an SAE's latents stand for, on data made of them.

A latent fires where its code is not 0. Latents and features are matched by where they fire (functional matches): a
latent that fires on the same samples as a feature stands for it, whatever its atom looks like, so that sparse atoms are
not at a disadvantage. Matches are chosen on one half of the samples and scored on the other, because the best of
thousands of candidates looks good by chance.

The decoder's cosines to the features, which the literature reports, are given beside the most that atoms with these
supports could reach: an atom of d values in m dimensions reaches about sqrt(d / m) of a dense feature.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae_core.comparison import assigned_mean
from sae_core.dictionary import Dictionary
from sae_core.kernels.reference import densify

FOUND_ABOVE = 0.5  # a feature is found by a latent of a higher F1
_CHUNK_VALUES = 1 << 24  # values of tables of latents x features that are worked on at once


class Firings(NamedTuple):
    """Where the features fire: (sample, feature) of each time, in order of samples."""

    sample: Tensor  # int64 (firings,)
    feature: Tensor  # int64 (firings,)
    n_samples: int
    n_features: int

    def part(self, first: int, last: int) -> Firings:
        """Return the firings on the samples first..last - 1, which are numbered from 0 again."""
        begin, end = (int(torch.searchsorted(self.sample, number)) for number in (first, last))
        return Firings(self.sample[begin:end] - first, self.feature[begin:end], last - first, self.n_features)

    def table(self, features: Tensor) -> Tensor:
        """Return where some features fire, bool (n_samples, features)."""
        place = torch.full((self.n_features,), -1)
        place[features] = torch.arange(len(features))
        column = place[self.feature]
        found = torch.zeros(self.n_samples, len(features), dtype=torch.bool)
        found[self.sample[column >= 0], column[column >= 0]] = True
        return found


class Cofirings(NamedTuple):
    """How often latents and features fire, alone and together."""

    together: Tensor  # int32 (n_latents, n_features)
    latents: Tensor  # int64 (n_latents,)
    features: Tensor  # int64 (n_features,)
    n_samples: int


class Scores(NamedTuple):
    """How well latents tell where features fire, float64 (pairs,) each; 0 where a latent or a feature never fires."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


def cofirings(latents: Tensor, n_latents: int, firings: Firings) -> Cofirings:
    """Count the samples on which each latent and each feature fire together.

    Args:
        latents: int64 (n_samples, k), the latents that fire on each sample; -1 where fewer than k do.
    """
    n_features = firings.n_features
    together = torch.zeros(n_latents * n_features, dtype=torch.int32)
    for first in range(0, len(firings.sample), size := max(1, _CHUNK_VALUES // latents.shape[1])):
        part = slice(first, first + size)
        fired = latents[firings.sample[part]]
        pairs = (fired * n_features + firings.feature[part, None])[fired >= 0]
        together.index_add_(0, pairs, torch.ones(len(pairs), dtype=torch.int32))
    counts = latents[latents >= 0].bincount(minlength=n_latents)
    features = firings.feature.bincount(minlength=n_features)
    return Cofirings(together.view(n_latents, n_features), counts, features, firings.n_samples)


def best_matches(counts: Cofirings) -> tuple[Tensor, Tensor]:
    """Return (for each latent the feature, for each feature the latent) of the highest F1: two int64 tensors."""
    n_latents, n_features = counts.together.shape
    of_latent = torch.zeros(n_latents, dtype=torch.int64)
    of_feature, best = torch.zeros(n_features, dtype=torch.int64), torch.full((n_features,), -1.0)
    for first in range(0, n_latents, size := max(1, _CHUNK_VALUES // n_features)):
        part = slice(first, first + size)
        either = counts.latents[part, None] + counts.features
        f1 = 2 * counts.together[part] / either.clamp_min(1)
        of_latent[part] = f1.argmax(1)
        highest, which = f1.max(0)
        better = highest > best
        best[better], of_feature[better] = highest[better], which[better] + first
    return of_latent, of_feature


def scores(counts: Cofirings, latents: Tensor, features: Tensor) -> Scores:
    """Return how well each of `latents` (pairs,) tells where the feature at its place in `features` (pairs,) fires."""
    both = counts.together[latents, features].double()
    fired, present = counts.latents[latents].double(), counts.features[features].double()
    return Scores(_ratio(both, fired), _ratio(both, present), _ratio(2 * both, fired + present))


def feature_measures(latents: Tensor, n_latents: int, firings: Firings, parents: Tensor) -> dict[str, float | None]:
    """Measure which features the latents stand for.

    Args:
        latents: int64 (n_samples, k), the latents that fire on each sample; -1 where fewer than k do.
        parents: int64 (n_features,): the feature without which a feature does not fire; -1 for none.

    Returns:
        feature_f1        mean over features of the F1 of the latent that matches it best
        coverage          share of features with a latent of F1 above .5
        feature_f1_chance, coverage_chance
                          the same if latents fired as often, and independently of the features
        latent_precision, latent_recall, latent_f1
                          mean over latents, each against the feature that it matches best; 0 for one that never fires
        latent_f1_chance  the same if latents fired as often, and independently of the features
        uniqueness        number of features that are the best match of a latent, over the number of latents
        absorption, absorbed_pairs, parent_missed
                          see `absorption`

        Features that fire in both halves of the samples count, the others cannot be told.
    """
    half = firings.n_samples // 2
    chosen = cofirings(latents[:half], n_latents, firings.part(0, half))
    scored = cofirings(latents[half:], n_latents, firings.part(half, firings.n_samples))
    of_latent, of_feature = best_matches(chosen)
    seen = ((chosen.features > 0) & (scored.features > 0)).nonzero()[:, 0]
    of_features = scores(scored, of_feature[seen], seen)
    of_latents = scores(scored, torch.arange(n_latents), of_latent)
    by_chance = _chance_f1(scored.features[seen], scored.latents.max(), scored.n_samples)
    alive = (chosen.latents > 0) & (scored.latents > 0)
    return {
        "feature_f1": _mean(of_features.f1),
        "coverage": _mean(of_features.f1 > FOUND_ABOVE),
        "feature_f1_chance": _mean(by_chance),
        "coverage_chance": _mean(by_chance > FOUND_ABOVE),
        "latent_precision": _mean(of_latents.precision),
        "latent_recall": _mean(of_latents.recall),
        "latent_f1": _mean(of_latents.f1),
        "latent_f1_chance": _mean(_chance_f1(scored.latents, scored.features.max(), scored.n_samples)),
        "uniqueness": len(of_latent[alive].unique()) / n_latents,
        **absorption(latents, chosen, firings, parents, of_feature),
    }


def absorption(
    latents: Tensor, chosen: Cofirings, firings: Firings, parents: Tensor, of_feature: Tensor
) -> dict[str, float | None]:
    """Measure how often a parent's latent is silent because a child's latent fires in its place.

    A parent fires wherever a child of it does. Its latent is the one that tells best where it fires without a child:
    there nothing can take its place. Only parents and children that are found (F1 above .5, parents where they fire
    without a child) count, in the first half of the samples; the second half is measured.

    Returns:
        absorption      of the samples of the second half on which a child fires and the child's latent too, the share
                        on which the parent's latent is silent
        parent_missed   of those on which the parent fires without a child, the share on which its latent is silent:
                        what is missed without any absorption
        absorbed_pairs  the pairs of a parent and a child that were measured; the others are None where there are none

    Args:
        chosen: the counts of the first half of the samples.
        of_feature: int64 (n_features,), the latent that stands for each feature.
    """
    nothing: dict[str, float | None] = {"absorption": None, "parent_missed": None, "absorbed_pairs": 0}
    parent_ids = parents[parents >= 0].unique()
    if not len(parent_ids):
        return nothing
    half, n_latents = firings.n_samples // 2, len(chosen.together)
    first, second = firings.part(0, half), firings.part(half, firings.n_samples)
    alone = cofirings(latents[:half], n_latents, _alone(first, parents, parent_ids))
    with_child = cofirings(latents[:half], n_latents, _with_child(first, parents, parent_ids))
    # A latent is judged on the samples without a child of the parent: its firings on the others are left out.
    fired = alone.latents[:, None] - with_child.together
    f1 = 2 * alone.together / (fired + alone.features).clamp_min(1)
    best, parent_latent = f1.max(0)
    child_f1 = scores(chosen, of_feature, torch.arange(firings.n_features)).f1
    place = torch.full((firings.n_features,), -1)
    place[parent_ids] = torch.arange(len(parent_ids))
    children = ((parents >= 0) & (child_f1 > FOUND_ABOVE)).nonzero()[:, 0]
    of_parent = place[parents[children]]
    kept = (best[of_parent] > FOUND_ABOVE) & (parent_latent[of_parent] != of_feature[children])
    children, of_parent = children[kept], of_parent[kept]
    if not len(children):
        return nothing
    ours = torch.zeros(second.n_samples, n_latents, dtype=torch.bool)
    rows, at = (latents[half:] >= 0).nonzero(as_tuple=True)
    ours[rows, latents[half:][rows, at]] = True
    present = second.table(children) & ours[:, of_feature[children]]
    absorbed = present & ~ours[:, parent_latent[of_parent]]
    measured = of_parent.unique()
    lone = _alone(second, parents, parent_ids).table(measured)
    missed = lone & ~ours[:, parent_latent[measured]]
    return {
        "absorption": _share(absorbed, present),
        "parent_missed": _share(missed, lone),
        "absorbed_pairs": len(children),
    }


def cosine_measures(dictionary: Dictionary, features: Tensor) -> dict[str, float]:
    """Measure how closely atoms point along features, as the literature does.

    Args:
        features: float32 (n_features, d_in), unit vectors.

    Returns:
        mcc           mean |cosine| of atoms and features matched one to one so that it is highest (arXiv 2505.20254)
        mcc_ceiling   the same if each atom had the best values that its support allows: a dense atom's is 1
        cosine_uniqueness
                      number of features that are some atom's closest by |cosine|, over the number of atoms
    """
    atoms = dictionary.unit_values().detach().float().cpu()
    support = None if dictionary.support is None else dictionary.support.cpu()
    features = dictionary.basis.into(features.to(dictionary.values)).detach().float().cpu()  # where atoms are sparse
    cosines, reach = torch.empty(2, len(atoms), len(features)).unbind()
    for first in range(0, len(atoms), size := max(1, _CHUNK_VALUES // len(features))):
        part = slice(first, first + size)
        some = None if support is None else support[part]
        cosines[part] = (densify(atoms[part], some, dictionary.d_in) @ features.T).abs()
        allowed = densify(torch.ones_like(atoms[part]), some, dictionary.d_in)
        reach[part] = (allowed @ features.square().T).clamp(0, 1).sqrt()
    return {
        "mcc": assigned_mean(cosines),
        "mcc_ceiling": 1.0 if dictionary.degree == dictionary.d_in else assigned_mean(reach),
        "cosine_uniqueness": len(cosines.argmax(1).unique()) / len(atoms),
    }


def _alone(firings: Firings, parents: Tensor, parent_ids: Tensor) -> Firings:
    """Return the firings of parents on the samples on which no child of theirs fires."""
    at = _number(firings, firings.feature)
    accompanied = torch.isin(at, _number(firings, parents[firings.feature])[parents[firings.feature] >= 0])
    return _renumbered(firings, firings.feature, torch.isin(firings.feature, parent_ids) & ~accompanied, parent_ids)


def _with_child(firings: Firings, parents: Tensor, parent_ids: Tensor) -> Firings:
    """Return the samples on which a child fires, as firings of its parent, each once."""
    above = parents[firings.feature]
    found = _renumbered(firings, above, above >= 0, parent_ids)
    once = _number(found, found.feature).unique()
    return Firings(once // found.n_features, once % found.n_features, found.n_samples, found.n_features)


def _number(firings: Firings, features: Tensor) -> Tensor:
    """Return a number for each (sample, feature)."""
    return firings.sample * firings.n_features + features


def _renumbered(firings: Firings, features: Tensor, keep: Tensor, ids: Tensor) -> Firings:
    """Return those firings for which `keep` is true, with `features` numbered by their place in `ids`."""
    return Firings(firings.sample[keep], torch.searchsorted(ids, features[keep]), firings.n_samples, len(ids))


def _chance_f1(counts: Tensor, other: Tensor, n_samples: int) -> Tensor:
    """Return the expected F1 of things that fire `counts` times with one that fires `other` times, independently."""
    a, b = counts.double(), other.double()
    return _ratio(2 * a * b / n_samples, a + b)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below.clamp_min(1e-12), 0.0)


def _share(some: Tensor, all_of_them: Tensor) -> float | None:
    count = int(all_of_them.sum())
    return int(some.sum()) / count if count else None


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else 0.0
