"""A support that is learned: each atom drops its smallest entries and grows as many where the gradient is largest.

The rule is RigL's (Evci et al. 2020, Rigging the lottery, section 3), applied to each atom so that it keeps exactly d
rows. In RigL a new entry starts at 0; from there a small learning rate would bring it no further than to be the
smallest at the next exchange. Here it starts with the magnitude of the entry it replaces, against the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sae_core.encoders import TiedTopK, inner_encoder
from sae_core.sae import SAE, SAEResidual

_CHUNK_VALUES = 1 << 24  # most entries of the dense gradient that are in memory at once


@dataclass(frozen=True)
class SupportSchedule:
    """When a support is changed in training, and by how much; see `sae_core.arms.Dynamic`."""

    every: int  # steps from one exchange to the next
    drop: float  # share of an atom's entries that is exchanged at first
    until: float  # share of the training after which the support stays
    tokens: int  # number of tokens that the gradient is summed over

    def count(self, step: int, steps: int, degree: int) -> int:
        """Return how many entries each atom exchanges after `step` of `steps`, rounded down; 0 between exchanges."""
        last = self.until * steps
        if step % self.every or not 0 < step < last:
            return 0
        return math.floor(self.drop / 2 * (1 + math.cos(math.pi * step / last)) * degree)


@torch.no_grad()
def regrow(sae: SAE, h: Tensor, count: int, companions: Sequence[Tensor] = ()) -> int:
    """Exchange up to `count` entries of each atom, in place; return how many entries changed their row.

    An atom gives up its `count` smallest magnitudes for the rows outside its support where the loss on h has its
    largest gradient; the largest gradient gets the smallest magnitude. Atoms without a gradient (they did not fire)
    stay as they are.

    Args:
        sae: an SAE whose dictionary has a support that no seed regenerates.
        h: (tokens, d_in) activations.
        companions: tensors (n, degree) that belong to the values, such as an optimizer's moments. They move with the
            values, and are 0 where an entry is new.
    """
    dictionary = sae.dictionary
    support, values = dictionary.support, dictionary.values
    assert support is not None and dictionary.drawn is None, "a support that can change"
    count = min(count, dictionary.degree, dictionary.d_in - dictionary.always_on - dictionary.degree)
    if count == 0:
        return 0
    rows, start = support.clone(), values.clone()
    fresh = torch.zeros_like(rows, dtype=torch.bool)
    for latents, gradient in _gradient(sae, h):
        outside = gradient.abs().scatter_(1, support[latents], -1.0)
        outside[:, : dictionary.always_on] = -1.0
        alive = torch.nonzero(outside.amax(1) > 0).flatten()
        grown = outside[alive].topk(count, dim=1).indices
        atoms = alive + latents.start
        smallest = values[atoms].abs().topk(count, dim=1, largest=False)
        at = (atoms[:, None], smallest.indices)
        rows[at], fresh[at] = grown, True
        start[at] = -gradient[alive].gather(1, grown).sign() * smallest.values
    dictionary.support, order = rows.sort(dim=1)
    values.copy_(start.gather(1, order))
    for tensor in companions:
        tensor.copy_(tensor.masked_fill(fresh, 0.0).gather(1, order))
    return int(fresh.sum())


def _gradient(sae: SAE, h: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (slice of latents, gradient) a chunk of latents at a time; the gradient is (chunk, d_in), over all rows.

    It is the derivative of half the squared error on h by each atom as a dense vector. Atoms, x and e are coordinates
    in the dictionary's basis. With a the codes, e = x - W a and, for a tied one-shot encoder, a_j = w_j^T x + b_j where
    atom j is picked, the gradient of atom j is -sum_t (a_tj e_t + (w_j^T e_t) x_t) over the tokens t that pick it. A
    pursuit's codes count as constants. Where the SAE has nested prefixes, it is the sum over them.
    """
    output, n = sae.residual_coordinates(h), sae.dictionary.n_latents
    x = sae.dictionary.basis.into(h.to(sae.b_dec.dtype) * sae.scale - sae.b_dec)
    picks = [_picked(sae, found) for found in (*output.shorter, output)]
    size = max(1, _CHUNK_VALUES // sae.dictionary.d_in)
    for first in range(0, n, size):
        part = slice(first, min(first + size, n))
        total = sum(of_prefix.gradient(x, part) for of_prefix in picks)
        assert isinstance(total, Tensor)
        yield slice(first, first + size), total.neg_()


class _Picks(NamedTuple):
    """The codes that one prefix uses, in order of latents, and what it leaves."""

    latents: Tensor  # int64 (picks,)
    tokens: Tensor  # int64 (picks,)
    codes: Tensor  # (picks,)
    through_encoder: Tensor | None  # (picks,), w_j^T e_t; None where codes count as constants
    residual: Tensor  # (tokens, d_in)

    def gradient(self, x: Tensor, part: slice) -> Tensor:
        """Return the gradient of some latents, with the sign changed."""
        low, high = torch.searchsorted(self.latents, self.latents.new_tensor([part.start, part.stop])).tolist()
        at = torch.stack((self.latents[low:high] - part.start, self.tokens[low:high]))
        shape = (part.stop - part.start, len(x))
        total = _sparse(at, self.codes[low:high], shape) @ self.residual
        if self.through_encoder is not None:
            total += _sparse(at, self.through_encoder[low:high], shape) @ x
        return total


def _picked(sae: SAE, found: SAEResidual) -> _Picks:
    picks, codes = sae.of_atoms(found.indices), sae.of_atoms(found.codes)
    latents, order = picks.flatten().sort(stable=True)
    through = None
    if isinstance(inner_encoder(sae.encoder), TiedTopK):
        through = _along_atoms(sae, picks, found.residual).masked_fill_(codes == 0, 0.0).flatten()[order]
    return _Picks(latents, order // picks.shape[1], codes.flatten()[order], through, found.residual)


def _sparse(at: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_coo_tensor(at, values, shape, check_invariants=False)


def _along_atoms(sae: SAE, indices: Tensor, residual: Tensor) -> Tensor:
    """Return w_j^T e_t for the picks j of each token t, e its residual: (tokens, k)."""
    support, atoms = sae.dictionary.support, sae.dictionary.unit_values()
    assert support is not None
    found = [
        (atoms[picks] * e[:, None].expand(-1, picks.shape[1], -1).gather(2, support[picks])).sum(-1)
        for picks, e in zip(indices.split(256), residual.split(256), strict=True)
    ]
    return torch.cat(found)
