"""An SAE that is there already, made smaller."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from sae_core.arms.base import TOPK, Sizes, Start, TiedArm, checked_basis, checked_sizes, label_in_basis, tied_encoder
from sae_core.arms.expander import Expander
from sae_core.arms.imported import Imported
from sae_core.bases import FOURIER, NEURONS, Basis, basis_sample, basis_shape, make_basis
from sae_core.dictionary import DenseDictionary, Dictionary, Drawn, SparseDictionary, drawn_support
from sae_core.encoders import BatchTopK, Encoder, JumpReLU, OwnTopK, PositiveTopK, TiedTopK, inner_encoder
from sae_core.hashed import later
from sae_core.sae import SAE
from sae_core.shrink import Kept, OwnRows, Use, common_threshold, decoder_bias, kept_rows, latent_use
from sae_core.sizes import CellError
from sae_core.storage import AS_INDICES, FROM_SEED, Layout
from sae_core.supports import top_magnitude_support

LARGEST, DRAWN = "largest", "drawn"
OWN = "own"  # the encoder that the other SAE has


@dataclass(frozen=True)
class Compressed(TiedArm):
    """Another SAE with fewer latents and values, which is then trained further.

    Each atom keeps its d largest magnitudes in `basis`; atoms of d = d_in stay dense, in a random basis that stores
    nothing (`fourier`), in which they can be rounded (`sae_core.arms.rounded`). The encoder becomes TopK with the atoms
    as its weights, or a pursuit; or beside dense atoms it stays what it is (`own`), with weights of its own in the same
    basis, and the same thresholds, gains and rule. Latents keep their order: of fewer than all those stay that fire
    most on a sample of activations (`sae_core.shrink`), and `kept_latents` says which these are.

    The SAE is read block by block, so that it may be larger than memory.

    Args:
        of: the SAE.
        n_latents: the latents to keep.
        degree: values of each atom, in 1..d_in.
        k: the latents that are active on a token.
        encoder: see `TiedArm`; or `own`, of an SAE whose encoder has a row of weights for each latent.
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
        if self.encoder != OWN:
            super().__post_init__()
        elif not self._original.own_encoder or self._original.heads:
            raise CellError(
                f"sae.encoder={OWN} is for an SAE whose encoder has a row of weights for each latent, which that of "
                f"sae.path={self.of.path} has not"
            )
        checked_basis(self.basis)
        if self.support not in (LARGEST, DRAWN):
            raise ValueError(f"sae.support={self.support} must be {LARGEST} or {DRAWN}")

    @property
    def draws_support(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.support == DRAWN

    @property
    def own_encoder(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.encoder == OWN

    @property
    def _original(self) -> Layout:
        """The description of the SAE that this one is made of: its sizes, and the encoder that its file holds."""
        return self.of.layout(self.of.header.d_in)

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
        if self.own_encoder and self.degree < d_in:
            raise CellError(f"sae.encoder={OWN} goes with dense atoms, of d={d_in} values")
        basis_shape(self.basis, d_in)
        return checked_sizes(d_in, self.n_latents, self.degree, self.k)

    def layout(self, d_in: int) -> Layout:
        layout = super().layout(d_in)
        if self.own_encoder:
            rule, batch_topk = self._original.rule, self._original.batch_topk
            layout = layout._replace(pursuit=None, own_encoder=True, rule=rule, batch_topk=batch_topk)
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
        own = OwnRows(torch.empty(n_latents, start.d_in), b_enc, torch.empty(n_latents)) if self.own_encoder else None
        for found in kept_rows(parts, kept, start.scale):
            part, atoms = slice(done, done := done + len(found.atoms)), basis.into(found.atoms)
            if not dense:
                if drawn is None:
                    support[part] = top_magnitude_support(atoms, degree)
                atoms = atoms.gather(1, support[part])
            values[part], b_enc[part] = atoms, found.b_enc
            if own is not None:
                _fill(own, part, found, basis)
        dictionary: Dictionary
        if dense:
            dictionary = DenseDictionary(start.d_in, 1, torch.Generator(), None, basis)
        else:
            dictionary = SparseDictionary(start.d_in, support, torch.Generator(), drawn, basis)
        dictionary.values.data = values
        encoder = tied_encoder(dictionary, self.encoder) if own is None else self._own_encoder(own)
        if isinstance(encoder, BatchTopK) and own is not None:
            encoder.threshold.fill_(common_threshold(parts, start.scale))
        sae = SAE(dictionary, encoder, k, start.scale)
        sae.b_dec.copy_(decoder_bias(parts, start.scale))
        inner = inner_encoder(sae.encoder)
        if isinstance(inner, TiedTopK):
            inner.b_enc.copy_(b_enc)
        return sae

    def _own_encoder(self, rows: OwnRows) -> Encoder:
        """Return the encoder that the other SAE has, with these rows."""
        encoder = OwnTopK(rows.weight, rows.b_enc)
        match self._original.rule, rows.rule:
            case "threshold", torch.Tensor() as threshold:
                return JumpReLU(encoder, threshold)
            case "gain", torch.Tensor() as gain:
                return PositiveTopK(encoder, gain)
        return BatchTopK(encoder) if self._original.batch_topk else encoder


def _fill(rows: OwnRows, part: slice, found: Kept, basis: Basis) -> None:
    """Put the encoder's rows of some latents into their part of all rows, in the coordinates of a basis."""
    assert found.own is not None, "an SAE whose encoder has no such rows is refused before it is read"
    rows.weight[part], rows.b_enc[part] = basis.into(found.own.weight), found.own.b_enc
    if rows.rule is not None and found.own.rule is not None:
        rows.rule[part] = found.own.rule
