"""Matching pursuit and a few steps of conjugate gradients; `reference.corrected_matching_pursuit` defines it.

It is made of a backend's kernels; `sae_core.kernels.reference` says the shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_core.kernels.autograd import widened
from sae_core.kernels.composed import power_of_two_scaled
from sae_core.kernels.dispatch import Backend
from sae_core.pursuit.reference import rounding


@torch.no_grad()
def corrected_matching_pursuit(
    backend: Backend, x: Tensor, values: Tensor, support: Tensor | None, k: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Return (codes, indices), each (tokens, k), by matching pursuit and `steps` steps on all its picks.

    Raises:
        ValueError: a tensor is of a wrong shape, dtype or device, or k is outside 1..n_latents.
    """
    backend.matching_pursuit(x[:0], values, support, k, True, False)  # refuses what no pursuit takes
    wide, atoms = widened(x), widened(values)
    y, scale, finite = power_of_two_scaled(wide)
    least = (rounding(wide.dtype) * y.norm(dim=1, keepdim=True)).square()  # a smaller gradient counts as 0
    codes, picks = backend.matching_pursuit(y, atoms, support, k, True, False)
    taken, left = codes != 0, backend.residual(y, codes, picks, atoms, support)
    direction, size = torch.zeros_like(codes), codes.new_ones(len(codes), 1)
    for _ in range(steps):
        gradient = backend.atom_products(left, picks, atoms, support) * taken
        new = gradient.square().sum(1, keepdim=True)
        going = new > least
        direction, size = gradient + torch.where(going, new / size, 0.0) * direction, new
        image = backend.decode(direction, picks, atoms, support, y.shape[1])
        length = image.square().sum(1, keepdim=True)
        along = torch.where(going & (length > 0), size / length, 0.0)
        codes, left = torch.addcmul(codes, along, direction), torch.addcmul(left, along, image, value=-1)
    whole = finite[:, None] & torch.isfinite(atoms).all()  # a diverged dictionary must not look healthy
    return (codes * scale).masked_fill(~whole, float("nan")).to(x.dtype), picks
