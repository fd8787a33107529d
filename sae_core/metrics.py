"""Reconstruction measures, each defined once, summed over the whole set and divided at the end."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Reconstruction(NamedTuple):
    """Measures over all tokens seen; fvu and explained_variance divide sums over all of them."""

    tokens: int
    relative_error: float  # mean of ||h - h_hat|| / ||h||
    fvu: float  # fraction of variance unexplained: sum ||h - h_hat||^2 / sum ||h - mean h||^2
    explained_variance: float  # 1 - (variance of the residual h - h_hat) / (variance of h)
    l0: float  # mean number of latents with a non-zero code per token
    dead_fraction: float  # share of latents that did not fire in these tokens
    dead_window_tokens: int  # number of tokens that dead_fraction refers to


class ReconstructionSums:
    """Float64 sums over batches: `add` each batch, then take the `result`."""

    def __init__(self, d_in: int, n_latents: int):
        self._n = self._active = 0
        self._relative = self._sq = self._residual_sq = 0.0
        self._sum = torch.zeros(d_in, dtype=torch.float64)
        self._residual_sum = torch.zeros(d_in, dtype=torch.float64)
        self._fired = torch.zeros(n_latents, dtype=torch.bool)

    def add(self, h: torch.Tensor, reconstruction: torch.Tensor, codes: torch.Tensor, indices: torch.Tensor) -> None:
        """Add a batch: h and reconstruction (tokens, d_in), codes and indices (tokens, k)."""
        h = h.double().cpu()
        residual = h - reconstruction.double().cpu()
        norms = h.norm(dim=1)
        self._n += len(h)
        # A zero activation has no relative error; it counts as 0 when reconstructed exactly, else as 1.
        ratio = residual.norm(dim=1) / norms
        self._relative += float(torch.where(norms > 0, ratio, (residual.norm(dim=1) > 0).double()).sum())
        self._sq += float(h.square().sum())
        self._residual_sq += float(residual.square().sum())
        self._sum += h.sum(0)
        self._residual_sum += residual.sum(0)
        active = codes != 0
        self._active += int(active.sum())
        self._fired[indices[active].cpu()] = True

    def result(self) -> Reconstruction:
        """Return the measures of all tokens that were added."""
        n = self._n
        variance = self._sq - float(self._sum.square().sum()) / n
        residual_variance = self._residual_sq - float(self._residual_sum.square().sum()) / n
        return Reconstruction(
            tokens=n,
            relative_error=self._relative / n,
            fvu=self._residual_sq / variance,
            explained_variance=1.0 - residual_variance / variance,
            l0=self._active / n,
            dead_fraction=1.0 - float(self._fired.double().mean()),
            dead_window_tokens=n,
        )


def ce_recovered(ce_sae: float, ce_clean: float, ce_ablated: float) -> float:
    """Return (ce_ablated - ce_sae) / (ce_ablated - ce_clean): 1 = the LM does not notice, 0 = as bad as the ablation.

    All three are in nats per token over the same tokens. With zero ablation this is the paper's measure; with mean
    ablation it is a much harder one.
    """
    return (ce_ablated - ce_sae) / (ce_ablated - ce_clean)
