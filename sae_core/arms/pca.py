from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sae_core.arms.base import FittedArm, Sizes, Start
from sae_core.arms.dense_matched import VALUES, matched_latents
from sae_core.dictionary import DenseDictionary
from sae_core.encoders import TiedTopK
from sae_core.sae import SAE
from sae_core.sizes import CellError


@dataclass(frozen=True)
class PCA(FittedArm):
    """The best linear reconstruction of rank r = d*n/m: as many decoder values as a sparse arm of the same d and n.

    It is not sparse: all r codes of a token are in use. So it shows how far storage alone goes.
    """

    n_latents: int
    degree: int
    name = "pca"
    sparse_codes = False

    def sizes(self, d_in: int) -> Sizes:
        rank = matched_latents(d_in, self.n_latents, self.degree, VALUES, d_in, bias=False)
        if not 1 <= rank <= d_in:
            raise CellError(f"rank {rank} (d*n/m) must be in 1..{d_in} (d_in): a larger one reconstructs everything")
        return Sizes(rank, d_in, rank)

    def make(self, start: Start) -> SAE:
        rank, _, k = self.sizes(start.d_in)
        dictionary = DenseDictionary(start.d_in, rank, torch.Generator().manual_seed(start.seed))
        return SAE(dictionary, TiedTopK(dictionary), k, start.scale)

    def fit_products(self, pool_tokens: int, d_in: int) -> int:
        """Count the second moments, then the eigenvectors."""
        return 2 * pool_tokens * d_in**2 + 20 * d_in**3

    @torch.no_grad()
    def fit(self, sae: SAE, batches: Iterable[torch.Tensor]) -> None:
        """Make b_dec the mean and atoms the directions of largest variance; moments are summed in float64."""
        d_in = sae.dictionary.d_in
        count, total = 0, torch.zeros(d_in, dtype=torch.float64)
        products = torch.zeros(d_in, d_in, dtype=torch.float64)
        for batch in batches:
            h = batch.detach().cpu().double()
            count += len(h)
            total += h.sum(0)
            products.addmm_(h.T, h)
        mean = total / count
        _, directions = torch.linalg.eigh(products / count - mean.outer(mean))
        sae.dictionary.values.copy_(directions[:, -sae.k :].flip(1).T)
        sae.b_dec.copy_(mean * float(sae.scale))
