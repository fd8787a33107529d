"""The definition of every operation: dense, differentiable by autograd, in any dtype. Never used in training.

Shapes: x (tokens, d_in), values (n_latents, degree), support (n_latents, degree) or None for atoms that use the first
`degree` rows (all d_in of them where atoms are dense), bias (n_latents,), codes and indices (tokens, k).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sae_core.pursuit import reference as pursuit


def densify(values: torch.Tensor, support: torch.Tensor | None, d_in: int) -> torch.Tensor:
    """Return the atoms as a dense (n_latents, d_in) matrix."""
    if support is None:
        return values if values.shape[1] == d_in else F.pad(values, (0, d_in - values.shape[1]))
    return values.new_zeros(len(values), d_in).scatter(1, support, values)


def encode_topk(
    x: torch.Tensor, values: torch.Tensor, support: torch.Tensor | None, bias: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest signed entries of z = W x + b, W the dense atoms: (codes, indices), in descending order."""
    z = x @ densify(values, support, x.shape[1]).T + bias
    codes, indices = z.topk(k, dim=1)
    return codes, indices


def decode(
    codes: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, support: torch.Tensor | None, d_in: int
) -> torch.Tensor:
    """Return h_hat = sum over the k picked atoms of code * atom: (tokens, d_in)."""
    dense_codes = codes.new_zeros(len(codes), len(values)).scatter(1, indices, codes)
    return dense_codes @ densify(values, support, d_in)


def residual(
    x: torch.Tensor, codes: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, support: torch.Tensor | None
) -> torch.Tensor:
    """Return x - decode(codes): (tokens, d_in)."""
    return x - decode(codes, indices, values, support, x.shape[1])


def unit_norm(values: torch.Tensor) -> torch.Tensor:
    """Scale the rows of values to unit l2 norm; a zero row stays zero."""
    return values / values.norm(dim=1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


@torch.no_grad()
def atom_products(
    y: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, support: torch.Tensor | None
) -> torch.Tensor:
    """Return <atom, y> for the atoms picked by each token: (tokens, k)."""
    return (y @ densify(values, support, y.shape[1]).T).gather(1, indices)


@torch.no_grad()
def gomp(
    x: torch.Tensor, values: torch.Tensor, support: torch.Tensor | None, k: int, block: int, signed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (codes, indices) by generalised OMP, `block` atoms a step."""
    atoms = densify(values, support, x.shape[1])
    return _stacked([pursuit.gomp(atoms, y, k, block, signed) for y in _targets(x, atoms)], x, k)


@torch.no_grad()
def matching_pursuit(
    x: torch.Tensor, values: torch.Tensor, support: torch.Tensor | None, k: int, signed: bool, refit: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (codes, indices) by matching pursuit, ended with least squares if `refit`."""
    atoms = densify(values, support, x.shape[1])
    return _stacked([pursuit.matching_pursuit(atoms, y, k, signed, refit) for y in _targets(x, atoms)], x, k)


@torch.no_grad()
def refit(x: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, support: torch.Tensor | None) -> torch.Tensor:
    """Return codes (tokens, k) by least squares on given picks."""
    atoms = densify(values, support, x.shape[1])
    found = [pursuit.refit(atoms, y, picked) for y, picked in zip(_targets(x, atoms), indices, strict=True)]
    return _stacked(found, x, indices.shape[1])[0]


def _targets(x: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
    """Return the targets; all NaN if any atom is not finite, because then the codes must be NaN."""
    return x if bool(torch.isfinite(atoms).all()) else torch.full_like(x, torch.nan)


def _stacked(found: list[pursuit.Pursuit], x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (codes, indices), each (tokens, k), of the results for single targets."""
    if not found:
        return x.new_zeros(0, k), torch.zeros(0, k, dtype=torch.int64, device=x.device)
    return torch.stack([one.codes for one in found]), torch.stack([one.indices for one in found])
