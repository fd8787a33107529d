"""How codes are found: one product and the k largest, or a pursuit.

The one-shot encoders keep the k largest *signed* entries of z (no ReLU), as the paper does.
"""

from __future__ import annotations

import torch
from torch import nn

from sae_core.dictionary import Dictionary
from sae_core.kernels.dispatch import Backend
from sae_core.pursuit.solvers import canonical, solver


class TiedTopK(nn.Module):
    """z = W^T x + b_enc with the dictionary's own atoms; stores b_enc (n_latents,) only."""

    def __init__(self, dictionary: Dictionary):
        super().__init__()
        self.b_enc = nn.Parameter(torch.zeros(dictionary.n_latents))

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (tokens, d_in), atoms = unit values: (codes, indices), each (tokens, k)."""
        return backend.encode_topk(x, atoms, support, self.b_enc, k)

    @torch.no_grad()
    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Forget the bias of re-aimed `latents`; their weights are the dictionary's."""
        self.b_enc[latents] = 0.0


class OwnTopK(nn.Module):
    """z = W_enc x + b_enc with its own dense weight (n_latents, d_in).

    Args:
        start: "transpose" (W_enc begins as the unit atoms: the paper's warm-tied arm) or "random"
            (N(0, 1) / sqrt(d_in) from `generator`).
    """

    def __init__(self, dictionary: Dictionary, start: str, generator: torch.Generator):
        super().__init__()
        if start not in ("transpose", "random"):
            raise ValueError(f"start={start} must be transpose or random")
        if dictionary.support is not None:
            raise ValueError("an encoder of its own is defined for dense dictionaries only")
        if start == "transpose":
            weight = dictionary.unit_values().detach().clone()
        else:
            weight = torch.randn(dictionary.n_latents, dictionary.d_in, generator=generator) / dictionary.d_in**0.5
        self.weight = nn.Parameter(weight)
        self.b_enc = nn.Parameter(torch.zeros(dictionary.n_latents))

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (tokens, d_in): (codes, indices), each (tokens, k)."""
        return backend.encode_topk(x, self.weight, None, self.b_enc, k)

    @torch.no_grad()
    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Aim the rows of re-aimed `latents` at `directions` (r, d_in), unit norm, and forget their bias."""
        self.weight[latents] = nn.functional.normalize(directions, dim=1)
        self.b_enc[latents] = 0.0


class ByPursuit(nn.Module):
    """Codes by the pursuit called `name` (`sae_core.pursuit.solvers`); stores nothing.

    Codes carry no gradient. Under the squared error that is exact for a pursuit that ends in least squares: at the
    optimum on the picked atoms, moving the codes changes the loss by nothing to first order (envelope theorem).
    """

    def __init__(self, name: str):
        super().__init__()
        self.name, self._solve = canonical(name), solver(name)

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (tokens, d_in), atoms = unit values: (codes, indices), each (tokens, k)."""
        return self._solve(backend, x, atoms, support, k)

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Nothing: a re-aimed latent is its atom."""


class Refitted(nn.Module):
    """The picks of another encoder with the best codes they can have: one least-squares solve, no search."""

    def __init__(self, encoder: TiedTopK | OwnTopK | ByPursuit):
        super().__init__()
        self.encoder = encoder

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (tokens, d_in), atoms = unit values: (codes, indices), each (tokens, k)."""
        indices = self.encoder(x, atoms, support, k, backend)[1]
        return backend.refit(x, indices, atoms, support), indices

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Those of the encoder that picks."""
        self.encoder.set_rows(latents, directions)


Encoder = TiedTopK | OwnTopK | ByPursuit | Refitted
