"""An SAE in the form that other libraries hold: two dense matrices, two biases and a rule for which latents fire.

    z = W_enc (h - b_dec) + b_enc        c = rule(z)        h_hat = W_dec^T c + b_dec

The scale s of our SAEs is folded in: W_enc is s times the unit atoms (or the encoder's own weights), W_dec the unit
atoms over s, b_dec ours over s. So codes are ours, and the reconstruction is in the units of h. A basis Q is folded in
too: the atoms Q^T a are written out in the LM's own coordinates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from sae_core.dictionary import DenseDictionary
from sae_core.encoders import (
    BatchTopK,
    ByPursuit,
    JumpReLU,
    NormedPursuit,
    OwnTopK,
    PositiveTopK,
    Refitted,
    inner_encoder,
)
from sae_core.formats.about import FormatError
from sae_core.kronecker import KroneckerTopK
from sae_core.sae import SAE


class TopK(NamedTuple):
    """The k largest of max(z, 0)."""

    k: int


class Above(NamedTuple):
    """The entries of z above a threshold of at least 0, each latent's own."""

    threshold: torch.Tensor  # (n_latents,)


class MatchingPursuit(NamedTuple):
    """k picks of the largest correlation, each subtracted before the next: `mp`, or `NormedPursuit`."""

    k: int
    stop: float = 0.0  # the norm of what is left, in the units of h, below which no more are picked
    distinct: bool = False  # whether a pick that adds no new atom is the last one


Rule = TopK | Above | MatchingPursuit


class DenseForm(NamedTuple):
    """An SAE as two dense matrices and a rule, all in float32 on the CPU."""

    encoder: torch.Tensor  # W_enc, (n_latents, d_in)
    b_enc: torch.Tensor  # (n_latents,)
    decoder: torch.Tensor  # W_dec, (n_latents, d_in)
    b_dec: torch.Tensor  # (d_in,)
    rule: Rule
    notes: tuple[str, ...]  # where, by its definition, the rule differs from the reading of our SAE

    @property
    def n_latents(self) -> int:
        return self.decoder.shape[0]

    @property
    def d_in(self) -> int:
        return self.decoder.shape[1]


@torch.no_grad()
def dense_form(sae: SAE) -> DenseForm:
    """Return `sae` in dense form. It takes 4 * n_latents * d_in bytes for each matrix, whatever the SAE stores.

    Under matching pursuit there are no encoder weights, and W_dec are the unit atoms, which the pursuit needs, or those
    of the norms that an SAE of SAELens' has. So its codes are ours over the scale.

    Raises:
        FormatError: no rule is the SAE's reading, or some coordinates are always on; the message says what is nearest.
        ValueError: values are still trained to be rounded.
    """
    dictionary = sae.dictionary
    if dictionary.rounded_to is not None:
        raise ValueError("the values of this SAE are still trained to be rounded: call sae_core.keep_rounded first")
    if dictionary.always_on:
        raise FormatError(
            f"always_on={dictionary.always_on} keeps coordinates on every token, with codes of both signs, which no "
            "other library can hold; nearest is a run with sae.always_on=0"
        )
    rule, notes = _rule(sae)
    atoms, scale = dictionary.dense_atoms().float().cpu(), float(sae.scale)
    b_dec, b_enc = sae.b_dec.detach().float().cpu() / scale, torch.zeros(len(atoms))
    encoder, decoder = scale * atoms, atoms / scale
    inner = inner_encoder(sae.encoder)
    if isinstance(inner, ByPursuit):
        norms = sae.encoder.gain.float().cpu()[:, None] if isinstance(sae.encoder, NormedPursuit) else 1.0
        encoder = decoder = norms * atoms
    else:
        b_enc = inner.b_enc.detach().float().cpu().clone()
        encoder = scale * dictionary.basis.out_of(inner.rows()).float().cpu() if isinstance(inner, OwnTopK) else encoder
    if isinstance(sae.encoder, PositiveTopK):
        decoder = decoder * sae.encoder.gain.float().cpu()[:, None]
    return DenseForm(encoder, b_enc, decoder, b_dec, rule, notes)


def _rule(sae: SAE) -> tuple[Rule, tuple[str, ...]]:
    """Return the rule that is the SAE's reading, and where it differs. Raise FormatError where none is."""
    encoder, k, n = sae.encoder, sae.k, sae.dictionary.n_latents
    if isinstance(encoder, Refitted):
        raise FormatError(
            "codes by least squares (refit) are a reading that no other library has; nearest is the SAE's own encoder"
        )
    if isinstance(inner_encoder(encoder), KroneckerTopK):
        raise FormatError(
            "no other library has KronSAE's encoder, whose latents are products of pre-latents; nearest is a run of "
            "sae=dense_warmtied"
        )
    if isinstance(encoder, NormedPursuit):
        scale = float(sae.scale)
        notes = () if scale == 1 else (f"codes there are in the units of h: ours over the scale, {scale:.6g}",)
        return MatchingPursuit(encoder.most, encoder.stop / scale, encoder.distinct), notes
    if isinstance(encoder, ByPursuit):
        if encoder.name != "mp":
            raise FormatError(
                f"no other library reads codes by {encoder.name}; nearest is mp (inference=mp), matching pursuit "
                "without what ours adds to it, in SAELens; or topk (inference=topk), one product, in all three"
            )
        return MatchingPursuit(k), (
            "a pursuit that comes back to an atom adds to its code there; ours takes each atom once",
            f"codes there are in the units of h: ours over the scale, {float(sae.scale):.6g}",
        )
    if isinstance(encoder, BatchTopK):
        most = min(BatchTopK.WIDTH * k, n)
        note = f"of a token with more than {most} latents above the threshold all fire there, the {most} largest here"
        threshold = torch.full((n,), max(0.0, float(encoder.threshold)))
        return Above(threshold), (note,) if most < n else ()
    if isinstance(encoder, JumpReLU):
        return Above(encoder.threshold.float().cpu()), ()
    if isinstance(encoder, PositiveTopK):
        uneven = bool((encoder.gain != 1).any())
        return TopK(k), ("codes there are ours over the gain of each latent, which its atom has there",) * uneven
    if n <= 2 * k:
        raise FormatError(
            f"k={k} of n={n} latents are half of them or more, so that many codes are negative, which every other "
            "library makes 0; nearest is an SAE of more latents"
        )
    return TopK(k), ("of a token with fewer than k positive entries the negative ones that ours keeps are 0 there",)


@torch.no_grad()
def from_dense(form: DenseForm, k: int, scale: float = 1.0) -> SAE:
    """Return the SAE of a dense form, in evaluation mode; its codes are the form's times the norms of the atoms.

    Args:
        k: the latents of readings that use exactly so many (`infer_by`), where the form has a threshold.
        scale: what activations are multiplied with before the form applies.

    Raises:
        FormatError: an atom has no length.
    """
    norms = form.decoder.norm(dim=1)
    if not bool((norms > 0).all()):
        raise FormatError(f"W_dec of latent {int((norms > 0).int().argmin())} is 0: it is no atom")
    # A dictionary of one latent, which is then given all: no other matrix than the form's and W_enc is ever in memory.
    dictionary = DenseDictionary(form.d_in, 1, torch.Generator())
    dictionary.values.data = form.decoder.contiguous()
    gain = norms if isinstance(form.rule, Above) else torch.ones_like(norms)

    def own() -> OwnTopK:
        weight = torch.mul(form.encoder, gain[:, None], out=torch.empty(form.n_latents, form.d_in))
        return OwnTopK(weight, form.b_enc * gain)

    match form.rule:
        case TopK(size):
            k, encoder = size, PositiveTopK(own(), norms)
        case Above(threshold):
            encoder = JumpReLU(own(), threshold.clamp(min=0.0) * norms)
        case MatchingPursuit(most, stop, distinct):
            encoder = NormedPursuit(norms, most, stop, distinct)
    sae = SAE(dictionary, encoder, k, scale)
    sae.b_dec.copy_(form.b_dec)
    return sae.eval()
