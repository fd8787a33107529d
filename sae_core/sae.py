"""A sparse autoencoder: a dictionary, an encoder, a decoder bias and one input scale."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from sae_core.dictionary import Dictionary
from sae_core.encoders import Encoder, OwnTopK
from sae_core.kernels.dispatch import get_backend


class SAEOutput(NamedTuple):
    """A reconstruction and the codes that it is made of."""

    reconstruction: torch.Tensor  # (tokens, d_in), in the units of the input
    codes: torch.Tensor  # (tokens, k), in scaled units
    indices: torch.Tensor  # (tokens, k), the latents that the codes belong to


class SAEResidual(NamedTuple):
    """The part of an input that an SAE does not reconstruct, and the codes that it used."""

    residual: torch.Tensor  # (tokens, d_in), s * (h - h_hat): the loss squares it
    codes: torch.Tensor  # (tokens, k), in scaled units
    indices: torch.Tensor  # (tokens, k), the latents that the codes belong to


class SAE(nn.Module):
    """A sparse autoencoder: h_hat = (W c + b_dec) / s with k-sparse codes c of x = s * h - b_dec.

    Args:
        dictionary: the atoms W.
        encoder: finds the codes.
        k: active latents per token, in 1..n_latents.
        scale: the scalar s that activations are multiplied with; the output is divided by it.
        backend: the kernels that compute, see `sae_core.kernels.dispatch`.

    Raises:
        ValueError: k is outside 1..n_latents, or the scale is not positive and finite.
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
        """Whether the encoder has no weights of its own."""
        return not isinstance(self.encoder, OwnTopK)

    def with_encoder(self, encoder: Encoder) -> SAE:
        """Return an SAE of the same dictionary, bias and scale (shared, not copied) whose codes `encoder` finds."""
        other = SAE(self.dictionary, encoder, self.k, float(self.scale), self.backend)
        other.b_dec, other.scale = self.b_dec, self.scale
        return other

    def encode(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices) of h (tokens, d_in), each (tokens, k)."""
        return self._encode(self._centre(h), self._atoms())

    def decode(self, codes: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction (tokens, d_in), in the input's units, that `encode`'s result makes."""
        return self._decode(codes, indices, self._atoms())

    def forward(self, h: torch.Tensor) -> SAEOutput:
        """Encode and decode h (tokens, d_in); the atoms are normalised once for both."""
        atoms = self._atoms()
        codes, indices = self._encode(self._centre(h), atoms)
        return SAEOutput(self._decode(codes, indices, atoms), codes, indices)

    def residual(self, h: torch.Tensor) -> SAEResidual:
        """Return what `forward` leaves of h (tokens, d_in), in scaled units: s * (h - h_hat) = x - W c.

        Training uses it, because it makes no reconstruction only to subtract it again.
        """
        atoms, x = self._atoms(), self._centre(h)
        codes, indices = self._encode(x, atoms)
        return SAEResidual(self._kernels().residual(x, codes, indices, atoms, self.dictionary.support), codes, indices)

    def _kernels(self):
        return get_backend(self.backend, self.b_dec.device)

    def _atoms(self) -> torch.Tensor:
        return self.dictionary.unit_values(self.backend)

    def _centre(self, h: torch.Tensor) -> torch.Tensor:
        if h.ndim != 2 or h.shape[1] != self.dictionary.d_in:
            raise ValueError(f"h of shape {tuple(h.shape)} must be (tokens, {self.dictionary.d_in})")
        return _Centre.apply(h, self.scale, self.b_dec)  # type: ignore[return-value]

    def _encode(self, x: torch.Tensor, atoms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder(x, atoms, self.dictionary.support, self.k, self._kernels())

    def _decode(self, codes: torch.Tensor, indices: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
        dictionary = self.dictionary
        scaled = self._kernels().decode(codes, indices, atoms, dictionary.support, dictionary.d_in)
        return (scaled + self.b_dec) / self.scale


class _Centre(torch.autograd.Function):
    """x = s * h - b in the dtype of b, for h of any float dtype: one pass forward, one sum backward."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(scale)
        ctx.dtype = h.dtype
        return torch.addcmul(-shift, h.to(shift.dtype), scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (scale,) = ctx.saved_tensors
        need_h, _, need_shift = ctx.needs_input_grad
        grad_h = (grad * scale).to(ctx.dtype) if need_h else None
        return grad_h, None, grad.sum(0).neg_() if need_shift else None
