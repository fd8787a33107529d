"""Dictionaries: n_latents atoms in R^d_in, stored on a support or densely, behind one interface."""

from __future__ import annotations

import torch
from torch import nn

from sae_core.kernels.dispatch import get_backend
from sae_core.supports import check_degree, expander_support


class Dictionary(nn.Module):
    """Atoms as a parameter `values` (n_latents, degree) and, where sparse, the rows they stand on.

    Abstract: use `SparseDictionary` or `DenseDictionary`. An atom is its values scaled to unit l2 norm; the
    gradient flows through the norm.
    """

    values: nn.Parameter
    support: torch.Tensor | None  # int64 (n_latents, degree), None where atoms are dense
    support_seed: int | None  # regenerates the support, where one does
    d_in: int

    @property
    def n_latents(self) -> int:
        return self.values.shape[0]

    @property
    def degree(self) -> int:
        return self.values.shape[1]

    def unit_values(self, backend: str = "auto") -> torch.Tensor:
        """Atoms' entries on their support, each atom of unit l2 norm: (n_latents, degree)."""
        return get_backend(backend, self.values.device).unit_norm(self.values)

    @torch.no_grad()
    def set_atoms(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Aim `latents` (r,) at `directions` (r, d_in): restricted to the support, unit norm, / sqrt(degree)."""
        if self.support is not None:
            directions = directions.gather(1, self.support[latents])
        self.values[latents] = nn.functional.normalize(directions, dim=1) / self.degree**0.5


class SparseDictionary(Dictionary):
    """Atoms on a left-regular support.

    Args:
        d_in: rows of the dictionary (the paper's m).
        support: int (n_latents, degree), sorted distinct rows of each atom.
        generator: draws the initial values, N(0, 1) / sqrt(degree).
        support_seed: the seed that `support` was drawn from, when it can be regenerated from it.

    Raises:
        ValueError: no rows, more than d_in, rows outside 0..d_in-1, unsorted or twice in an atom.
    """

    def __init__(self, d_in: int, support: torch.Tensor, generator: torch.Generator, support_seed: int | None = None):
        super().__init__()
        check_degree(d_in, support.shape[1])
        if len(support) and (int(support.min()) < 0 or int(support.max()) >= d_in):
            raise ValueError(f"support rows {int(support.min())}..{int(support.max())} must be in 0..{d_in - 1} (d_in)")
        if not bool((support[:, 1:] > support[:, :-1]).all()):
            raise ValueError("support: each atom's rows must be sorted and distinct")
        self.d_in, self.support_seed = d_in, support_seed
        self.register_buffer("support", support.to(torch.int64), persistent=False)
        self.values = nn.Parameter(torch.randn(support.shape, generator=generator) / support.shape[1] ** 0.5)


class DenseDictionary(Dictionary):
    """Atoms that use every row: degree = d_in. Initial values N(0, 1) / sqrt(d_in)."""

    def __init__(self, d_in: int, n_latents: int, generator: torch.Generator):
        super().__init__()
        if n_latents < 1:
            raise ValueError(f"n={n_latents} must be at least 1")
        self.d_in, self.support, self.support_seed = d_in, None, None
        self.values = nn.Parameter(torch.randn(n_latents, d_in, generator=generator) / d_in**0.5)


def expander_dictionary(d_in: int, n_latents: int, degree: int, seed: int) -> SparseDictionary:
    """A random left-`degree`-regular dictionary; support and initial values both follow from `seed`."""
    support = expander_support(d_in, n_latents, degree, seed)
    return SparseDictionary(d_in, support, torch.Generator().manual_seed(seed), support_seed=seed)
