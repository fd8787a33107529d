"""Codes as a matrix (tokens, n_latents) with a 0 for each latent that does not fire, as other libraries pass them.

Here n_latents counts the coordinates that are always on too, behind the atoms (`SAE.n_latents`). Such a matrix is all
that is as large as tokens * n_latents: neither a dense dictionary nor pre-activations of all latents are made.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from sae_core.sae import SAE

_ENTRIES = 1 << 22  # of picked codes that are in memory at once


def encode_dense(sae: SAE, h: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return the codes of h (tokens, d_in): (tokens, n_latents). Gradients reach h as through `SAE.encode`.

    Args:
        dtype: the dtype of the matrix, that of the SAE's codes unless given.
    """
    codes, indices = sae.encode(h)
    codes = codes.to(dtype or codes.dtype)
    # Latents that do not fire may be named more than once, with code 0.
    return codes.new_zeros(len(h), sae.n_latents).scatter_add_(1, indices, codes)


def decode_dense(sae: SAE, codes: torch.Tensor) -> torch.Tensor:
    """Return the reconstruction (tokens, d_in) that `codes` (tokens, n_latents) make, however many are not 0.

    It is computed in the SAE's dtype and returned in that of the codes. The gradient reaches every code, also those
    that are 0, but nothing of the SAE, which stays as it is.

    Raises:
        ValueError: codes are of another shape.
    """
    if codes.ndim != 2 or codes.shape[1] != sae.n_latents:
        raise ValueError(f"codes of shape {tuple(codes.shape)} must be (tokens, {sae.n_latents})")
    return _Decode.apply(codes, sae)  # type: ignore[return-value]


def _decoded(sae: SAE, codes: torch.Tensor) -> torch.Tensor:
    atoms = codes[:, : sae.dictionary.n_latents]
    picked, indices = _picked(atoms)
    always_on = codes[:, sae.dictionary.n_latents :]
    if always_on.shape[1]:
        latents = torch.arange(sae.dictionary.n_latents, sae.n_latents, device=codes.device)
        picked = torch.cat((picked, always_on), 1)
        indices = torch.cat((indices, latents.expand(len(codes), -1)), 1)
    rows = max(1, _ENTRIES // picked.shape[1])
    parts = zip(picked.split(rows), indices.split(rows), strict=True)
    return torch.cat([sae.decode(codes.to(sae.b_dec.dtype), latents) for codes, latents in parts])


def _picked(codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes that are not 0 and their latents, each (tokens, w) for the most that a token has, at least 1."""
    rows, latents = codes.nonzero(as_tuple=True)
    counts = rows.bincount(minlength=len(codes))
    width = max(1, int(counts.amax())) if len(codes) else 1
    places = torch.arange(len(rows), device=codes.device) - (counts.cumsum(0) - counts)[rows]
    indices = latents.new_zeros(len(codes), width)
    indices[rows, places] = latents
    picked = codes.new_zeros(len(codes), width)
    picked[rows, places] = codes[rows, latents]
    return picked, indices


def _products(sae: SAE, y: torch.Tensor) -> torch.Tensor:
    """Return the products of y (tokens, d_in) with what each latent's code of 1 adds to W c: (tokens, n_latents)."""
    dictionary = sae.dictionary
    unit, support = dictionary.unit_values(), dictionary.support
    if support is None:
        return dictionary.coordinates(y) @ unit.T
    u = dictionary.basis.into(y)
    found = F.embedding_bag(support, u.T.contiguous(), mode="sum", per_sample_weights=unit).T
    return torch.cat((found, u[:, : dictionary.always_on]), 1) if dictionary.always_on else found


class _Decode(torch.autograd.Function):
    """h_hat of dense codes; its gradient by the codes is (d loss / d h_hat) W^T / s, for all latents."""

    @staticmethod
    def forward(ctx: Any, codes: torch.Tensor, sae: SAE) -> torch.Tensor:
        ctx.sae = sae
        return _decoded(sae, codes).to(codes.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return (_products(ctx.sae, grad.to(ctx.sae.scale.dtype)) / ctx.sae.scale).to(grad.dtype), None
