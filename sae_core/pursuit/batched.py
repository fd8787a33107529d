"""Pursuits on any dictionary, for a batch of targets: one signature, (dictionary, targets, k, ...) -> Pursuit.

Each agrees with its float64 reference (`sae_core.pursuit.reference`, which states the definitions and their sources) on
the support and the residual. Atoms are the dictionary's, of unit norm. Nothing depends on the targets' scale, and
nothing carries a gradient. `backend` is a name in `sae_core.kernels.dispatch`. With signed=True the largest
correlations are picked, with signed=False the largest magnitudes.

All raise ValueError for k outside 1..n_latents, and for targets that are not (tokens, d_in) of the dictionary's dtype.
All return indices and codes (tokens, k), and residual_norm (tokens,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.kernels.dispatch import get_backend
from sae_core.pursuit.reference import Pursuit
from sae_core.pursuit.solvers import Solver, gomp_solver, matching_pursuit_solver
from sae_core.pursuit.thresholding import cosamp as _cosamp
from sae_core.pursuit.thresholding import niht as _niht

__all__ = ["Pursuit", "cosamp", "gomp", "matching_pursuit", "niht", "omp", "refit", "solve"]


def omp(dictionary: Dictionary, targets: Tensor, k: int, signed: bool = True, backend: str = "auto") -> Pursuit:
    """Find codes by orthogonal matching pursuit."""
    return solve(gomp_solver(1, signed), dictionary, targets, k, backend)


def gomp(
    dictionary: Dictionary, targets: Tensor, k: int, block: int, signed: bool = True, backend: str = "auto"
) -> Pursuit:
    """Find codes by generalised (block) OMP, `block` atoms a step."""
    return solve(gomp_solver(block, signed), dictionary, targets, k, backend)


def matching_pursuit(
    dictionary: Dictionary, targets: Tensor, k: int, signed: bool = True, refit: bool = True, backend: str = "auto"
) -> Pursuit:
    """Find codes by matching pursuit over distinct atoms; `refit` ends it with least squares on the picks."""
    return solve(matching_pursuit_solver(signed, refit), dictionary, targets, k, backend)


def niht(dictionary: Dictionary, targets: Tensor, k: int, backend: str = "auto") -> Pursuit:
    """Find codes by normalised iterative hard thresholding."""
    return solve(_niht, dictionary, targets, k, backend)


def cosamp(dictionary: Dictionary, targets: Tensor, k: int, backend: str = "auto") -> Pursuit:
    """Find codes by compressive sampling matching pursuit."""
    return solve(_cosamp, dictionary, targets, k, backend)


@torch.no_grad()
def refit(dictionary: Dictionary, targets: Tensor, indices: Tensor, backend: str = "auto") -> Pursuit:
    """Find codes by least squares on given atoms, indices (tokens, k)."""
    kernels, values = get_backend(backend, targets.device), dictionary.unit_values(backend)
    targets = dictionary.basis.into(targets)
    codes = kernels.refit(targets, indices, values, dictionary.support)
    left = kernels.residual(targets, codes, indices, values, dictionary.support)
    return Pursuit(indices, codes, left.norm(dim=1))


@torch.no_grad()
def solve(solver: Solver, dictionary: Dictionary, targets: Tensor, k: int, backend: str = "auto") -> Pursuit:
    """Find codes by any solver (see `sae_core.pursuit.solvers`) on the dictionary's atoms."""
    kernels, values = get_backend(backend, targets.device), dictionary.unit_values(backend)
    targets = dictionary.basis.into(targets)
    codes, indices = solver(kernels, targets, values, dictionary.support, k)
    left = kernels.residual(targets, codes, indices, values, dictionary.support)
    return Pursuit(indices, codes, left.norm(dim=1))
