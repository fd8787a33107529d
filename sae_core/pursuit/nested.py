"""Matching pursuit that stops by gain, in one group of atoms after another; `reference.nested_pursuit` defines it.

It is made of a backend's kernels; `sae_core.kernels.reference` says the shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sae_core.kernels.autograd import widened
from sae_core.kernels.composed import filled_up, power_of_two_scaled
from sae_core.kernels.dispatch import Backend


@torch.no_grad()
def nested_pursuit(
    backend: Backend, x: Tensor, values: Tensor, support: Tensor | None, k: int, floor: float, prefixes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return (codes, indices), each (tokens, k); `floor` and `prefixes` are those of `reference.nested_pursuit`.

    Raises:
        ValueError: a tensor is of a wrong shape, dtype or device, or k is outside 1..n_latents.
    """
    backend.matching_pursuit(x[:0], values, support, k, True, False)  # refuses what no pursuit takes
    wide, atoms = widened(x), widened(values)
    y, scale, finite = power_of_two_scaled(wide)
    least = floor**0.5 * y.norm(dim=1, keepdim=True)
    picks, taken = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device), y.new_zeros(len(x), 0, dtype=torch.bool)
    codes, left = y.new_zeros(len(x), 0), y
    for first, last in pairwise((0, *prefixes)):
        rows = None if support is None else support[first:last]
        gains, found = backend.matching_pursuit(left, atoms[first:last], rows, min(k, last - first), True, False)
        above = ((gains >= least) & (gains > 0)).cumprod(1).bool()
        picks, taken = _first_taken(torch.cat([picks, found + first], 1), torch.cat([taken, above], 1), k)
        # The first pick stands in for picks not taken: least squares gives code 0 to an atom that comes again.
        stand_in = torch.where(taken, picks, picks[:, :1])
        codes = backend.refit(y, stand_in, atoms, support) * taken
        left = backend.residual(y, codes, picks, atoms, support)
    codes = (codes * scale).masked_fill(~finite[:, None], float("nan"))
    return codes.to(x.dtype), filled_up(picks, taken, len(values))


def _first_taken(picks: Tensor, taken: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return (picks, taken) with those that are taken first, in their order, and at most k columns."""
    order = (~taken).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    return picks.gather(1, order), taken.gather(1, order)
