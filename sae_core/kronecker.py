"""The encoder of KronSAE: each latent is the conjunction of two of far fewer pre-latents (arXiv 2505.22255)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sae_core.kernels.dispatch import Backend
from sae_core.kernels.on_packed import OnPacked

_EPSILON = 1e-5  # under the root, where its slope would be infinite at 0 (the paper's appendix H)
_CHUNK_VALUES = 1 << 24  # products of pre-latents held at once


class Heads(NamedTuple):
    """The groups that latents are in: each has `base` times `extension` latents, made of as many pre-latents in sum."""

    base: int  # the paper's m
    extension: int  # the paper's n

    @property
    def latents(self) -> int:
        """How many latents a head has."""
        return self.base * self.extension

    def rows(self, n_latents: int) -> int:
        """Return how many pre-latents stand behind so many latents."""
        return n_latents // self.latents * (self.base + self.extension)


class KroneckerTopK(nn.Module):
    """The k largest of z, whose entry for latent (head, i, j) is the root of p_i * q_j: both have to be active.

    p and q are a head's pre-latents: the first `base` and the last `extension` of ReLU(W x + b)'s entries for the head.
    Latents are numbered by head, then i, then j. n/(base*extension) * (base + extension) rows of W and b are stored,
    and as many products of length d_in are taken, instead of n (Kurochkin et al. 2025, equations 2 to 4).

    Where p_i or q_j is 0 the code is 0 and the latent does not fire; elsewhere it is sqrt(p_i * q_j + 1e-5), as in the
    paper's appendix H, so that its gradient stays finite.

    Args:
        d_in: length of x.
        n_latents: how many latents, a multiple of those of a head.
        heads: the sizes of a head.
        generator: draws W, N(0, 1) / sqrt(2 * n_latents) as in appendix H.
    """

    def __init__(self, d_in: int, n_latents: int, heads: Heads, generator: torch.Generator):
        super().__init__()
        self.heads, rows = heads, heads.rows(n_latents)
        self.weight = nn.Parameter(torch.randn(rows, d_in, generator=generator) / (2 * n_latents) ** 0.5)
        self.b_enc = nn.Parameter(torch.zeros(rows))

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend | OnPacked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, k), of x (tokens, d_in); the atoms are not used."""
        base, extension = self.heads
        active = F.relu(F.linear(x, self.weight, self.b_enc)).unflatten(1, (-1, base + extension))
        p, q = active[..., :base], active[..., base:]
        indices = self._largest(p.detach(), q.detach(), k)
        head, i, j = indices // self.heads.latents, indices // extension % base, indices % extension
        product = p.flatten(1).gather(1, head * base + i) * q.flatten(1).gather(1, head * extension + j)
        codes = (product + _EPSILON).sqrt().masked_fill(product == 0, 0.0)
        return codes, indices

    def _largest(self, p: torch.Tensor, q: torch.Tensor, k: int) -> torch.Tensor:
        """Return the k latents of the largest products for each token: int64 (tokens, k)."""
        tokens = max(1, _CHUNK_VALUES // (p.shape[1] * self.heads.latents))
        parts = zip(p.split(tokens), q.split(tokens), strict=True)
        return torch.cat([(a[..., :, None] * b[..., None, :]).flatten(1).topk(k, dim=1).indices for a, b in parts])

    def atoms(self) -> torch.Tensor:
        """Return what the paper's atoms start at: the sum of the two rows of W of each latent, (n_latents, d_in)."""
        rows = self.weight.detach().unflatten(0, (-1, sum(self.heads)))
        return (rows[:, : self.heads.base, None] + rows[:, None, self.heads.base :]).flatten(0, 2)

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Do nothing: other latents, which may be alive, use the same rows."""
