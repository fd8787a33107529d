"""An SAE that is there already, made smaller."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from sae_core.arms.base import TOPK, Sizes, Start, TiedArm, checked_basis, checked_sizes, label_in_basis, tied_encoder
from sae_core.arms.expander import Expander
from sae_core.arms.imported import Imported
from sae_core.bases import FOURIER, NEURONS, basis_sample, basis_shape, make_basis
from sae_core.dictionary import DenseDictionary, Dictionary, Drawn, SparseDictionary, drawn_support
from sae_core.encoders import TiedTopK, inner_encoder
from sae_core.hashed import later
from sae_core.sae import SAE
from sae_core.shrink import Use, decoder_bias, kept_atoms, latent_use
from sae_core.sizes import CellError
from sae_core.storage import AS_INDICES, FROM_SEED, Layout
from sae_core.supports import top_magnitude_support

LARGEST, DRAWN = "largest", "drawn"


@dataclass(frozen=True)
class Compressed(TiedArm):
    """Another SAE with fewer latents and values and no encoder weights, which is then trained further.

    Each atom keeps its d largest magnitudes in `basis`; atoms of d = d_in stay dense, in a random basis that stores
    nothing (`fourier`), in which they can be rounded (`sae_core.arms.rounded`). The encoder becomes TopK with the atoms
    as its weights, or a pursuit. Latents keep their order: of fewer than all those stay that fire most on a sample of
    activations (`sae_core.shrink`), and `kept_latents` says which these are.

    The SAE is read block by block, so that it may be larger than memory.

    Args:
        of: the SAE.
        n_latents: the latents to keep.
        degree: values of each atom, in 1..d_in.
        k: the latents that are active on a token.
        encoder: see `TiedArm`.
        basis: the coordinates that atoms are sparse in (`sae_core.bases.names`).
        support: which values an atom keeps: its `largest`, whose rows are stored, or those on rows that a seed draws
            as an expander's (`drawn`), which cost nothing to store and keep little of the atom.
    """

    of: Imported
    n_latents: int
    degree: int
    k: int
    encoder: str = TOPK
    basis: str = later(NEURONS)
    support: str = later(LARGEST)
    name = "compressed"
    prefixes = ()
    SAMPLE: ClassVar[int] = 16_384  # activations by which it is found out how often latents fire

    def __post_init__(self):
        super().__post_init__()
        checked_basis(self.basis)
        if self.support not in (LARGEST, DRAWN):
            raise ValueError(f"sae.support={self.support} must be {LARGEST} or {DRAWN}")

    @property
    def draws_support(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.support == DRAWN

    @property
    def untrained_label(self) -> str:
        return label_in_basis(self.name, self.basis)

    @property
    def sample_tokens(self) -> int:
        drops = self.n_latents < self.of.header.n_latents
        return max(basis_sample(self.basis), self.SAMPLE if drops else 0)

    def sizes(self, d_in: int) -> Sizes:
        most = self.of.sizes(d_in).n_latents
        if self.n_latents > most:
            raise CellError(f"n={self.n_latents} must be in 1..{most}, the latents of sae.path={self.of.path}")
        for key, value, plain in (("basis", self.basis, NEURONS), ("support", self.support, LARGEST)):
            if self.degree == d_in and value != plain:
                raise CellError(f"sae.{key}={value} is for atoms of fewer values than d={d_in}")
        basis_shape(self.basis, d_in)
        return checked_sizes(d_in, self.n_latents, self.degree, self.k)

    def layout(self, d_in: int) -> Layout:
        layout = super().layout(d_in)
        if self.degree == d_in:
            return layout._replace(basis=FOURIER)
        return layout._replace(support=FROM_SEED if self.draws_support else AS_INDICES, basis=self.basis)

    def latent_use(self, scale: float, sample: torch.Tensor) -> Use:
        """Return how far each latent of the SAE is of use on a sample of activations (tokens, d_in)."""
        return latent_use(partial(self.of.blocks, scale), self.of.header, sample[: self.SAMPLE].float())

    def kept_latents(self, scale: float, sample: torch.Tensor | None) -> torch.Tensor:
        """Return which latents of the SAE are kept, in their order: int64 (n_latents,). The first without a sample."""
        if self.n_latents == self.of.header.n_latents or sample is None:
            return torch.arange(self.n_latents)
        return self.latent_use(scale, sample).kept(self.n_latents)

    @torch.no_grad()
    def make(self, start: Start) -> SAE:
        n_latents, degree, k = self.sizes(start.d_in)
        dense = degree == start.d_in
        basis = make_basis(FOURIER if dense else self.basis, start.d_in, start.seed, start.sample)
        values, b_enc = torch.empty(n_latents, degree), torch.empty(n_latents)
        drawn = Drawn(Expander.name, start.support_seed) if self.draws_support else None
        support = torch.empty(0 if dense else n_latents, degree, dtype=torch.int64)
        if drawn is not None:
            support = drawn_support(drawn, start.d_in, n_latents, degree)
        parts, kept, done = partial(self.of.blocks, start.scale), self.kept_latents(start.scale, start.sample), 0
        for atoms, biases in kept_atoms(parts, kept, start.scale):
            part, atoms = slice(done, done := done + len(atoms)), basis.into(atoms)
            if not dense:
                if drawn is None:
                    support[part] = top_magnitude_support(atoms, degree)
                atoms = atoms.gather(1, support[part])
            values[part], b_enc[part] = atoms, biases
        dictionary: Dictionary
        if dense:
            dictionary = DenseDictionary(start.d_in, 1, torch.Generator(), None, basis)
        else:
            dictionary = SparseDictionary(start.d_in, support, torch.Generator(), drawn, basis)
        dictionary.values.data = values
        sae = SAE(dictionary, tied_encoder(dictionary, self.encoder), k, start.scale)
        sae.b_dec.copy_(decoder_bias(parts, start.scale))
        inner = inner_encoder(sae.encoder)
        if isinstance(inner, TiedTopK):
            inner.b_enc.copy_(b_enc)
        return sae
