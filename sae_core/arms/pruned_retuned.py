from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import DerivedArm, SparseArm, tied_encoder
from sae_core.arms.dense_tied import DenseTied
from sae_core.dictionary import SparseDictionary
from sae_core.encoders import TiedTopK, inner_encoder
from sae_core.sae import SAE
from sae_core.supports import top_magnitude_support


@dataclass(frozen=True)
class PrunedRetuned(SparseArm, DerivedArm):
    """A trained dense_tied SAE pruned to each atom's d largest magnitudes, and trained again (paper, section 4).

    In another basis than the neurons', magnitudes are those in the basis. It takes twice the training, dense the first
    time. The support depends on the data, so its indices are stored.
    """

    name = "pruned_retuned"

    @property
    def starts_from(self) -> DenseTied:
        return DenseTied(self.n_latents, self.k, self.encoder, self.prefixes)

    @torch.no_grad()
    def derive(self, trained: SAE, seed: int = 0, sample: torch.Tensor | None = None) -> SAE:
        d_in = trained.dictionary.d_in
        basis = self.make_basis(d_in, seed, sample)
        atoms = basis.into(trained.dictionary.unit_values().detach().cpu())
        support = top_magnitude_support(atoms[:, self.always_on :], self.degree) + self.always_on
        dictionary = SparseDictionary(d_in, support, torch.Generator(), None, basis, self.always_on)
        dictionary.values.copy_(atoms.gather(1, support))
        encoder = tied_encoder(dictionary, self.encoder)
        ours, theirs = inner_encoder(encoder), inner_encoder(trained.encoder)
        if isinstance(ours, TiedTopK) and isinstance(theirs, TiedTopK):
            ours.b_enc.copy_(theirs.b_enc.cpu())
        sae = SAE(dictionary, encoder, self.k, float(trained.scale), trained.backend, trained.prefixes)
        sae.b_dec.copy_(trained.b_dec.cpu())
        return sae.to(trained.b_dec.device)
