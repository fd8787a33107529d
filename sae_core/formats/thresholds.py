"""Readings by thresholds of each latent's own, all as one: c = max(z, 0) where z > threshold, z = W_enc x + b_enc.

ReLU        the threshold 0
JumpReLU    its own
BatchTopK   one for all latents, after training
gated       fires where u + b_gate > 0, u = W_enc x, with the code max(exp(r_mag) u + b_mag, 0)

The gated one (arXiv 2404.16014) is exp(r_mag) max(z, 0) with b_enc = b_mag / exp(r_mag), where z > b_enc - b_gate; the
factor goes into W_enc, b_enc and the threshold.
"""

from __future__ import annotations

import torch


def gated(
    encoder: torch.Tensor, b_gate: torch.Tensor, b_mag: torch.Tensor, r_mag: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (W_enc, b_enc, threshold) of a gated encoder W_enc (n_latents, d_in) with biases (n_latents,)."""
    factor = r_mag.exp()
    return encoder * factor[:, None], b_mag, (b_mag - factor * b_gate).clamp(min=0.0)
