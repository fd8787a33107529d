"""Losses: pure functions of a batch, no parameters of their own."""

from __future__ import annotations

import torch


def reconstruction_loss(h: torch.Tensor, reconstruction: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """mean over the batch of ||s*h - s*h_hat||^2, in the SAE's scaled units (paper, section 2). Moves every parameter.

    Args:
        h, reconstruction: (tokens, d_in) in the LM's units.
        scale: s.
    """
    return squared_errors(h, reconstruction, scale).mean()


def squared_errors(h: torch.Tensor, reconstruction: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """||s*h - s*h_hat||^2 of each token: (tokens,)."""
    return ((h - reconstruction) * scale).square().sum(1)
