"""An SAE of another library read a few latents at a time, so that one larger than memory can be looked at.

A block is an SAE of its latents alone, with the same rule for which of them fire. A threshold is each latent's own, so
that a block's codes are those that its latents have in the whole. Of a TopK the k largest of all blocks are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy.sparse import csc_array

from sae_core.correlation import code_matrix
from sae_core.encoders import PositiveTopK, joined
from sae_core.formats import own
from sae_core.formats.dense import TopK, from_dense
from sae_core.formats.names import READERS
from sae_core.formats.reading import Header, Source
from sae_core.sae import SAE

BLOCK_BYTES = 1 << 28  # of the two matrices of a block, in float32
_TOKENS = 2048  # whose codes are looked for at once


class Block(NamedTuple):
    """Some latents of an SAE, as an SAE."""

    first: int  # the number in the whole of its first latent
    sae: SAE


def read(source: Source, header: Header, k: int, scale: float = 1.0) -> SAE:
    """Return the whole SAE, in evaluation mode; the arguments are those of `blocks`."""
    if header.layout is not None:
        return own.load(source)
    return from_dense(READERS[source.format].read(source, header), k, scale)


def blocks(
    source: Source, header: Header, k: int, scale: float = 1.0, block_bytes: int = BLOCK_BYTES
) -> Iterator[Block]:
    """Yield the SAE block by block. A file of ours, which is compact, is one block, and so is an SAE read by pursuit.

    Args:
        k: the latents of readings that use exactly so many, where the SAE does not say k itself.
        scale: what activations are multiplied with before they are read (`sae_core.formats.dense.from_dense`).

    Raises:
        FormatError: the weights cannot be read, a value is not finite, or an atom has no length.
    """
    size = max(1, block_bytes // (8 * header.d_in))
    if header.layout is not None or header.n_latents <= size or header.pursuit:
        yield Block(0, read(source, header, k, scale))
        return
    for first in range(0, header.n_latents, size):
        form = READERS[source.format].read(source, header, slice(first, min(first + size, header.n_latents)))
        if isinstance(form.rule, TopK):
            form = form._replace(rule=TopK(min(form.rule.k, form.n_latents)))
        yield Block(first, from_dense(form, min(k, form.n_latents), scale))


@torch.no_grad()
def codes_of(parts: Iterator[Block], header: Header, h: torch.Tensor) -> csc_array:
    """Return the codes of h (tokens, d_in) by an SAE that is given block by block: sparse (tokens, n_latents).

    Codes are those of atoms of unit norm, in scaled units. A code of 0 does not fire.
    """
    found: tuple[torch.Tensor, torch.Tensor] | None = None
    strength = torch.empty(0)  # by which a TopK over all blocks picks: z, a code over its latent's gain
    for first, sae in parts:
        codes, indices = (sae.of_atoms(part) for part in joined([sae.encode(part) for part in h.split(_TOKENS)]))
        gain = sae.encoder.gain[indices] if isinstance(sae.encoder, PositiveTopK) else torch.ones_like(codes)
        indices, z = indices + first, codes / gain
        if found is not None:
            codes, indices = (torch.cat(both, 1) for both in zip(found, (codes, indices), strict=True))
            z = torch.cat((strength, z), 1)
        if isinstance(sae.encoder, PositiveTopK) and header.k is not None and codes.shape[1] > header.k:
            kept = z.topk(header.k, dim=1).indices
            codes, indices, z = (part.gather(1, kept) for part in (codes, indices, z))
        found, strength = (codes, indices), z
    assert found is not None, "there is at least one block"
    return code_matrix(*found, header.n_latents)
