"""Encoders, which find codes: by one product and its k largest entries, or by a pursuit.

The one-shot encoders keep the k largest *signed* entries of z (no ReLU), as the paper does.
"""

from __future__ import annotations

import torch
from torch import nn

from sae_core.dictionary import Dictionary
from sae_core.kernels.dispatch import Backend
from sae_core.pursuit.solvers import canonical, solver, stops_by_gain


class TiedTopK(nn.Module):
    """The k largest of z = W^T x + b_enc with the dictionary's own atoms; stores b_enc (n_latents,) only."""

    def __init__(self, dictionary: Dictionary):
        super().__init__()
        self.b_enc = nn.Parameter(torch.zeros(dictionary.n_latents))

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, k), of x (tokens, d_in); `atoms` are unit values (n, degree)."""
        return backend.encode_topk(x, atoms, support, self.b_enc, k)

    @torch.no_grad()
    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Set the bias of re-aimed `latents` to 0; their weights are the dictionary's."""
        self.b_enc[latents] = 0.0


class OwnTopK(nn.Module):
    """The k largest of z = W_enc x + b_enc, with a dense weight (n_latents, d_in) of its own.

    Args:
        start: where W_enc begins: "transpose", at the unit atoms (the paper's warm-tied arm), or "random", at
            N(0, 1) / sqrt(d_in) drawn by `generator`.

    Raises:
        ValueError: `start` is neither, or the dictionary is sparse.
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
        """Return (codes, indices), each (tokens, k), of x (tokens, d_in); the atoms are not used."""
        return backend.encode_topk(x, self.weight, None, self.b_enc, k)

    @torch.no_grad()
    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Aim the rows of re-aimed `latents` at `directions` (r, d_in), at unit norm, and set their bias to 0."""
        self.weight[latents] = nn.functional.normalize(directions, dim=1)
        self.b_enc[latents] = 0.0


class ByPursuit(nn.Module):
    """An encoder that finds codes by the pursuit called `name` (`sae_core.pursuit.solvers`); stores nothing.

    Codes carry no gradient. Under the squared error that is exact for a pursuit that ends in least squares: at the
    optimum on the picked atoms, moving the codes changes the loss by nothing to first order (envelope theorem). For
    `mp_cg{T}`, which comes near that optimum, it is nearly the gradient.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name, self._solve = canonical(name), solver(name)

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, k), of x (tokens, d_in); `atoms` are unit values (n, degree)."""
        return self._solve(backend, x, atoms, support, k)

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Do nothing: this encoder has no parameters."""


class Refitted(nn.Module):
    """An encoder that takes another encoder's picks and gives them the best codes by one least-squares solve."""

    def __init__(self, encoder: TiedTopK | OwnTopK | ByPursuit):
        super().__init__()
        self.encoder = encoder

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, k), of x (tokens, d_in); `atoms` are unit values (n, degree)."""
        indices = self.encoder(x, atoms, support, k, backend)[1]
        return backend.refit(x, indices, atoms, support), indices

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Re-aim `latents` in the encoder that picks."""
        self.encoder.set_rows(latents, directions)


Encoder = TiedTopK | OwnTopK | ByPursuit | Refitted


def looks_at_energy(encoder: Encoder) -> bool:
    """Return whether an encoder looks at all of a token's energy, also at what no atom of a low rank reaches."""
    picks = encoder.encoder if isinstance(encoder, Refitted) else encoder
    return isinstance(picks, ByPursuit) and stops_by_gain(picks.name)
