"""The features of a synthetic model: their vectors, how often they fire, how strongly, and which need which."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sweep.synthetic.config import SyntheticConfig

_CERTAIN = 1.0 - 1e-6  # a feature that is to fire always: the Gaussian that decides about it has no such threshold
_LEAST_OWN = 0.01  # the least share of a feature's Gaussian that it shares with no other


class Features(NamedTuple):
    """What a synthetic model is made of; F is the number of features, the most frequent first."""

    vectors: Tensor  # float32 (F, d_in), unit vectors
    bias: Tensor  # float32 (d_in,)
    thresholds: Tensor  # float32 (F,): feature i is a candidate where its Gaussian exceeds this
    shared: Tensor  # float32 (F, rank): how much of a feature's Gaussian is shared with others
    own: Tensor  # float32 (F,): the spread of the part that is its own
    means: Tensor  # float32 (F,), mean activation
    spreads: Tensor  # float32 (F,)
    parents: Tensor  # int64 (F,): the feature without which a feature does not fire; -1 for none
    levels: list[Tensor]  # int64 (children,): the features at each depth of the trees below the roots


def draw_features(config: SyntheticConfig) -> Features:
    """Draw the features of a model; the same settings give the same features."""
    g = torch.Generator().manual_seed(config.seed)
    parents, levels = _trees(config)
    vectors = _vectors(config, g)
    bias = torch.randn(config.d_in, generator=g)
    shared = torch.randn(config.n_features, config.correlation_rank, generator=g) * config.correlation_scale
    too_much = (shared.square().sum(1) / (1 - _LEAST_OWN)).clamp_min(1).sqrt()
    shared = shared / too_much[:, None]
    likely = _before_trees(zipf(config), parents, config.exclusive).clamp_max(_CERTAIN)
    return Features(
        vectors=vectors,
        bias=bias * config.bias / bias.norm(),
        thresholds=math.sqrt(2) * torch.erfinv(1 - 2 * likely),
        shared=shared,
        own=(1 - shared.square().sum(1)).sqrt(),
        means=torch.linspace(config.mean_first, config.mean_last, config.n_features),
        spreads=(config.std * (1 + torch.randn(config.n_features, generator=g))).abs(),
        parents=parents,
        levels=levels,
    )


def zipf(config: SyntheticConfig) -> Tensor:
    """Return how often each feature is to fire, float32 (n_features,): rank^-exponent, brought into the range."""
    falling = torch.arange(1, config.n_features + 1, dtype=torch.float32) ** -config.exponent
    share = (falling - falling[-1]) / (falling[0] - falling[-1])
    return config.min_prob + (config.max_prob - config.min_prob) * share


def _trees(config: SyntheticConfig) -> tuple[Tensor, list[Tensor]]:
    """Return (parents, levels) of the forest: features are dealt out in order of rank, one level after another."""
    parents = torch.full((config.n_features,), -1)
    above = torch.arange(min(config.roots, config.n_features))
    levels: list[Tensor] = []
    used = len(above)
    for _ in range(config.depth):
        count = min(len(above) * config.branching, config.n_features - used)
        if count == 0:
            break
        children = torch.arange(used, used + count)
        parents[children] = above.repeat_interleave(config.branching)[:count]
        levels.append(children)
        above, used = children, used + count
    return parents, levels


def _before_trees(wanted: Tensor, parents: Tensor, exclusive: bool) -> Tensor:
    """Return how often features must be candidates so that after the rules of the trees they fire about as wanted.

    A child is seen only where its parent fires, and where siblings exclude each other, it competes with those that are
    expected to be candidates there: 1 + the sum of their probabilities over the parent's.
    """
    child = parents >= 0
    of_parent = wanted[parents.clamp_min(0)]
    likely = torch.where(child, wanted / of_parent, wanted)
    if exclusive:
        siblings = torch.zeros_like(wanted).index_add(0, parents[child], wanted[child])[parents.clamp_min(0)]
        rivals = torch.where(child, (siblings - wanted).clamp_min(0) / of_parent, 0)
        likely = likely * (1 + rivals)
    return likely


def _vectors(config: SyntheticConfig, g: torch.Generator) -> Tensor:
    """Draw unit vectors and make them more nearly orthogonal, each on its own coordinates."""
    count, d_in = config.n_features, config.d_in
    vectors = torch.randn(count, d_in, generator=g)
    allowed = torch.ones(count, d_in)
    if config.feature_degree is not None:
        chosen = torch.rand(count, d_in, generator=g).topk(config.feature_degree, dim=1).indices
        allowed = torch.zeros(count, d_in).scatter_(1, chosen, 1.0)
    vectors = torch.nn.functional.normalize(vectors * allowed).requires_grad_(True)
    optimizer = torch.optim.Adam([vectors], lr=config.orthogonal_lr)
    for _ in range(config.orthogonal_steps):
        optimizer.zero_grad()
        _overlap_gradient(vectors, allowed)
        optimizer.step()
    return torch.nn.functional.normalize(vectors.detach())


@torch.no_grad()
def _overlap_gradient(vectors: Tensor, allowed: Tensor) -> None:
    """Put into `vectors.grad` the gradient of sum over i != j of <f_i, f_j>^2 + F * sum over i of (|f_i|^2 - 1)^2.

    With the features as the rows of V (F, d_in) and s_i = |f_i|^2 it is 4 * (V V^T V + (F * (s - 1) - s) * V). V^T V is
    made first, since it is the smaller one of the two products where features outnumber dimensions.
    """
    norms = vectors.square().sum(1, keepdim=True)
    own = len(vectors) * (norms - 1) - norms
    vectors.grad = 4 * allowed * torch.addcmul(vectors @ (vectors.T @ vectors), own, vectors)
