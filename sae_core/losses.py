"""Losses: pure functions of a batch, without parameters of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sae_core.sae import SAEResidual


def reconstruction_loss(residual: torch.Tensor) -> torch.Tensor:
    """Return the batch mean of ||s*h - s*h_hat||^2, in the SAE's scaled units (paper, section 2).

    Its gradient reaches every parameter.

    Args:
        residual: (tokens, d_in), s * (h - h_hat) as `SAE.residual` returns it.
    """
    return squared_errors(residual).mean()


def matryoshka_loss(found: SAEResidual) -> torch.Tensor:
    """Return the sum of `reconstruction_loss` over nested prefixes of the latents (arXiv 2503.17547, section 3).

    Where the SAE has no prefixes, it is the loss of all latents alone.

    Args:
        found: what `SAE.residual` returns.
    """
    loss = reconstruction_loss(found.residual)
    for shorter in found.shorter:
        loss = loss + reconstruction_loss(shorter.residual)
    return loss


def squared_errors(residual: torch.Tensor) -> torch.Tensor:
    """Return ||residual||^2 of each token: (tokens,)."""
    return _RowSquares.apply(residual)  # type: ignore[return-value]


class _RowSquares(torch.autograd.Function):
    """Sums of squares by rows, without a tensor of squares and with a backward of one pass."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        return torch.linalg.vector_norm(rows, dim=1).square_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (rows,) = ctx.saved_tensors
        return rows * (2 * grad)[:, None]
