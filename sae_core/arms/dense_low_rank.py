from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import TOPK, Sizes, Start, TiedArm, checked_sizes, start_at_mean, tied_encoder
from sae_core.bases import BasisName, basis_sample, make_basis
from sae_core.dictionary import DenseDictionary
from sae_core.encoders import TiedTopK
from sae_core.hashed import later
from sae_core.kernels.dispatch import get_backend
from sae_core.prefixes import prefix_sizes
from sae_core.sae import SAE
from sae_core.sizes import CellError
from sae_core.storage import Layout


@dataclass(frozen=True)
class DenseLowRank(TiedArm):
    """Dense atoms of low rank, W^T = A B with A (n, R) and a shared B (R, m), and W_enc = W^T.

    B has orthonormal rows, the first R coordinates of R trained reflections (`sae_core.bases`). No W^T of this rank is
    lost by that: with B^T = U L (QR decomposition) A B = (A L^T) U^T, which is as many values. And then all is as with
    dense atoms on the R coordinates Bx: an atom B^T a is as long as a, two atoms have the products of their a, and what
    lies outside the row space of B is what every reconstruction leaves. So encoders and pursuits work on Bx, and codes
    by one product take R*m + n*R multiply-adds.

    n*R + R*m + n + m values are learned. B starts at the pool's first R principal directions and b_dec at its mean.
    All of b_enc starts at the one number with which the first codes leave least: in few dimensions the k atoms picked
    are nearly parallel, and without it their codes add up to many times x.

    Args:
        rank: R, in 1..d_in.
        encoder, prefixes: see `TiedArm`.
    """

    n_latents: int
    rank: int
    k: int
    encoder: str = later(TOPK)
    prefixes: tuple[int | str, ...] = later(())
    name = "dense_low_rank"

    @property
    def sample_tokens(self) -> int:
        return basis_sample(low_rank_basis(self.rank))

    def sizes(self, d_in: int) -> Sizes:
        if not 1 <= self.rank <= d_in:
            kind = CellError if self.rank > d_in else ValueError
            raise kind(f"sae.rank={self.rank} must be in 1..{d_in} (d_in)")
        prefix_sizes(self.prefixes, self.n_latents)
        return checked_sizes(d_in, self.n_latents, self.rank, self.k)

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(basis=low_rank_basis(self.rank))

    def make(self, start: Start) -> SAE:
        n_latents, rank, k = self.sizes(start.d_in)
        basis = make_basis(low_rank_basis(rank), start.d_in, start.seed, start.sample)
        generator = torch.Generator().manual_seed(start.seed)
        dictionary = DenseDictionary(start.d_in, n_latents, generator, rank, basis)
        encoder, prefixes = tied_encoder(dictionary, self.encoder), prefix_sizes(self.prefixes, n_latents)
        sae = SAE(dictionary, encoder, k, start.scale, prefixes=prefixes)
        start_at_mean(sae, start)
        if start.sample is not None and isinstance(sae.encoder, TiedTopK):
            sae.encoder.b_enc.data.fill_(_least_squares_bias(sae, start.sample))
        return sae


@torch.no_grad()
def _least_squares_bias(sae: SAE, h: torch.Tensor) -> float:
    """Return the number b that, added to all codes of h, leaves the least of it; it changes no pick.

    With e what the codes leave and s the sum of the atoms picked, ||e - b*s||^2 is least at b = <e, s> / <s, s>.
    """
    left, codes, indices, _ = sae.residual_coordinates(h)
    dictionary, kernels = sae.dictionary, get_backend(sae.backend, h.device)
    picked = kernels.decode(torch.ones_like(codes), indices, dictionary.unit_values(), None, dictionary.d_in)
    return float((left * picked).sum() / picked.square().sum())


def low_rank_basis(rank: int) -> str:
    """Return the name of the basis whose first `rank` coordinates are Bx."""
    return str(BasisName("reflections", rank, trained=True))
