"""Which latents of an SAE are of use, and the atoms of those that are kept: from an SAE that is read block by block.

A latent is of no use where it fires on none of a sample of tokens, or where its atom is nearly that of another one that
fires more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from sae_core.encoders import BatchTopK, ByPursuit, JumpReLU, OwnTopK, PositiveTopK, inner_encoder
from sae_core.formats import Block, codes_of
from sae_core.formats.reading import Header
from sae_core.kronecker import KroneckerTopK
from sae_core.sae import SAE

ALIKE = 0.99  # the cosine above which two atoms are duplicates
COMPARED_BYTES = 1 << 30  # the most bytes of atoms that are compared with each other
_ATOMS = 4096  # atoms that are dense at once

Blocks = Callable[[], Iterator[Block]]  # yields the whole SAE each time that it is called


class Use(NamedTuple):
    """How far each latent of an SAE is of use."""

    fired: torch.Tensor  # int64 (n_latents,), the tokens of the sample that it fires on
    duplicate: torch.Tensor  # bool (n_latents,), whether another one that fires no less has nearly the same atom

    @property
    def useful(self) -> int:
        """The number of latents that fire on the sample and are no duplicates."""
        return int(((self.fired > 0) & ~self.duplicate).sum())

    def kept(self, count: int) -> torch.Tensor:
        """Return the `count` latents that fire most, duplicates last, in their own order: int64 (count,)."""
        order = torch.where(self.duplicate, -1, self.fired).sort(descending=True, stable=True).indices
        return order[:count].sort().values


@torch.no_grad()
def latent_use(parts: Blocks, header: Header, h: torch.Tensor) -> Use:
    """Find out which latents are of use on activations h (tokens, d_in).

    Duplicates are looked for where all atoms together take no more than `COMPARED_BYTES`.
    """
    fired = torch.from_numpy(np.diff(codes_of(parts(), header, h).indptr)).to(torch.int64)
    duplicate = torch.zeros(header.n_latents, dtype=torch.bool)
    if 4 * header.n_latents * header.d_in <= COMPARED_BYTES:
        atoms = torch.cat([part for _, sae in parts() for part in dense_parts(sae)])
        _mark_duplicates(atoms, fired, duplicate)
    return Use(fired, duplicate)


def _mark_duplicates(atoms: torch.Tensor, fired: torch.Tensor, duplicate: torch.Tensor) -> None:
    """Mark each atom that is nearly that of a latent which fires more, or as much and comes first."""
    order = fired.sort(descending=True, stable=True).indices
    atoms = atoms[order]
    for first in range(0, len(atoms), _ATOMS):
        near = atoms[first : first + _ATOMS] @ atoms.T > ALIKE
        before = torch.arange(len(atoms)) < torch.arange(first, first + len(near))[:, None]
        duplicate[order[first : first + len(near)]] = (near & before).any(1)


def dense_parts(sae: SAE) -> Iterator[torch.Tensor]:
    """Yield the atoms of an SAE, of unit norm in the LM's coordinates, a few at a time: (atoms, d_in)."""
    for first in range(0, sae.dictionary.n_latents, _ATOMS):
        yield sae.dictionary.dense_atoms(slice(first, first + _ATOMS)).float().cpu()


class Kept(NamedTuple):
    """Some latents of an SAE, for one that multiplies activations with another scale."""

    atoms: torch.Tensor  # (latents, d_in), of unit norm in the LM's coordinates
    b_enc: torch.Tensor  # (latents,), what an encoder adds to the products of these atoms; 0 where the SAE has no such
    own: OwnRows | None  # where the encoder has a row of weights for each latent


class OwnRows(NamedTuple):
    """The rows of an encoder that are some latents'."""

    weight: torch.Tensor  # (latents, d_in), in the LM's coordinates
    b_enc: torch.Tensor  # (latents,)
    rule: torch.Tensor | None  # (latents,), the thresholds or gains, where each latent has one


@torch.no_grad()
def kept_rows(parts: Blocks, kept: torch.Tensor, scale: float) -> Iterator[Kept]:
    """Yield the latents `kept`, in their order, a few at a time, for an SAE that multiplies activations with `scale`.

    Args:
        kept: int64 (count,), rising.
    """
    for first, sae in parts():
        ratio = scale / float(sae.scale)
        b_enc = _biases(sae) * ratio
        for number, atoms in enumerate(dense_parts(sae)):
            start = number * _ATOMS
            inside = kept[(kept >= first + start) & (kept < first + start + len(atoms))] - first
            yield Kept(atoms[inside - start], b_enc[inside], _own_rows(sae, inside, ratio))


def _own_rows(sae: SAE, latents: torch.Tensor, ratio: float) -> OwnRows | None:
    """Return the encoder's rows of some latents, for a scale that is `ratio` times that of `sae`."""
    encoder, inner = sae.encoder, inner_encoder(sae.encoder)
    if not isinstance(inner, OwnTopK):
        return None
    weight = sae.dictionary.basis.out_of(inner.rows()[latents]).float().cpu()
    rule = None
    if isinstance(encoder, JumpReLU):
        rule = encoder.threshold[latents].float().cpu() * ratio
    elif isinstance(encoder, PositiveTopK):
        rule = encoder.gain[latents].float().cpu()
    return OwnRows(weight, inner.b_enc[latents].float().cpu() * ratio, rule)


@torch.no_grad()
def decoder_bias(parts: Blocks, scale: float) -> torch.Tensor:
    """Return b_dec (d_in,) of an SAE that multiplies activations with `scale`."""
    sae = next(parts()).sae
    return sae.b_dec.detach().float().cpu() * (scale / float(sae.scale))


def common_threshold(parts: Blocks, scale: float) -> float:
    """Return the threshold that all latents share (`BatchTopK`), for a scale; 0 where they share none."""
    sae = next(parts()).sae
    return float(sae.encoder.threshold) * scale / float(sae.scale) if isinstance(sae.encoder, BatchTopK) else 0.0


def _biases(sae: SAE) -> torch.Tensor:
    """Return what the encoder adds to the products of atoms of unit norm: (n_latents,)."""
    inner = inner_encoder(sae.encoder)
    if isinstance(inner, (ByPursuit, KroneckerTopK)):
        return torch.zeros(sae.dictionary.n_latents)
    b_enc = inner.b_enc.detach().float().cpu()
    return b_enc * sae.encoder.gain.cpu() if isinstance(sae.encoder, PositiveTopK) else b_enc
