"""Principal directions of a sample of activations, found without a matrix of d_in times d_in values."""

from __future__ import annotations

import torch

_EXTRA, _ROUNDS = 8, 6  # of the randomised search


@torch.no_grad()
def principal_directions(sample: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Return the `count` directions of the largest variance in `sample` (tokens, d_in): float32 (d_in, count).

    They are found by a randomised search with power iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4), which
    takes thin products only. Directions in which the sample has no variance are arbitrary.
    """
    h = sample.detach().cpu().float()
    h = h - h.mean(0)
    width = min(count + _EXTRA, h.shape[1])
    found = torch.randn(h.shape[1], width, generator=torch.Generator().manual_seed(seed))
    for _ in range(_ROUNDS):
        found = torch.linalg.qr(h.T @ (h @ torch.linalg.qr(found).Q)).Q
    within = (h @ found).double()
    _, turned = torch.linalg.eigh(within.T @ within)
    return found @ turned.flip(1)[:, :count].float()


@torch.no_grad()
def principal_rows(sample: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Return the `count` first principal directions, each as long as the sample's deviation along it.

    These few rows stand for all of `sample` (tokens, d_in): they have nearly its covariance, which is the sum of the
    rows' outer products.

    Returns:
        float64 (count, d_in).
    """
    directions = principal_directions(sample, count, seed).double()
    deviations = (sample.detach().cpu().double() @ directions).std(0, correction=0)
    return directions.T * deviations[:, None]
