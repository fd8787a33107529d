"""A sparse autoencoder: a dictionary, an encoder, a decoder bias and one input scale."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from sae_core.dictionary import Dictionary
from sae_core.encoders import Encoder, OwnTopK
from sae_core.kernels.dispatch import get_backend


class SAEOutput(NamedTuple):
    reconstruction: torch.Tensor  # (tokens, d_in), in the units of the input
    codes: torch.Tensor  # (tokens, k), of the scaled input
    indices: torch.Tensor  # (tokens, k), which latents


class SAE(nn.Module):
    """h_hat = (W x + b_dec) / s with k-sparse codes x of s * h - b_dec.

    Args:
        dictionary: the atoms W.
        encoder: how codes are found.
        k: active latents per token, in 1..n_latents.
        scale: the scalar s that activations are multiplied with; its inverse undoes it at the output.
        backend: which kernels compute, see `sae_core.kernels.dispatch`.

    Raises:
        ValueError: k outside 1..n_latents, or a scale that is not positive and finite.
    """

    scale: torch.Tensor

    def __init__(self, dictionary: Dictionary, encoder: Encoder, k: int, scale: float = 1.0, backend: str = "auto"):
        super().__init__()
        if not 1 <= k <= dictionary.n_latents:
            raise ValueError(f"k={k} must be in 1..{dictionary.n_latents} (n, the latents of this SAE)")
        if not (0 < scale < float("inf")):
            raise ValueError(f"scale={scale} must be positive and finite")
        self.dictionary, self.encoder, self.k, self.backend = dictionary, encoder, k, backend
        self.b_dec = nn.Parameter(torch.zeros(dictionary.d_in))
        self.register_buffer("scale", torch.tensor(float(scale)))

    @property
    def tied(self) -> bool:
        return not isinstance(self.encoder, OwnTopK)

    def _kernels(self):
        return get_backend(self.backend, self.b_dec.device)

    def encode(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(codes, indices) of h (tokens, d_in), each (tokens, k)."""
        return self._encode(h, self.dictionary.unit_values())

    def decode(self, codes: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Reconstruction (tokens, d_in) in the input's units from `encode`'s result."""
        return self._decode(codes, indices, self.dictionary.unit_values())

    def forward(self, h: torch.Tensor) -> SAEOutput:
        """Encode and decode h (tokens, d_in); the atoms are normalised once for both."""
        atoms = self.dictionary.unit_values()
        codes, indices = self._encode(h, atoms)
        return SAEOutput(self._decode(codes, indices, atoms), codes, indices)

    def _encode(self, h: torch.Tensor, atoms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if h.ndim != 2 or h.shape[1] != self.dictionary.d_in:
            raise ValueError(f"h of shape {tuple(h.shape)} must be (tokens, {self.dictionary.d_in})")
        return self.encoder(h * self.scale - self.b_dec, atoms, self.dictionary.support, self.k, self._kernels())

    def _decode(self, codes: torch.Tensor, indices: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
        dictionary = self.dictionary
        scaled = self._kernels().decode(codes, indices, atoms, dictionary.support, dictionary.d_in)
        return (scaled + self.b_dec) / self.scale
