"""Dictionaries: n_latents atoms in R^d_in, stored on a support or densely, behind one interface."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn

from sae_core.bases import Basis, Neurons
from sae_core.kernels.dispatch import Backend, get_backend
from sae_core.kernels.on_packed import OnPacked
from sae_core.kernels.reference import densify
from sae_core.rounding import Grid, straight_through
from sae_core.sizes import check_degree, check_latents
from sae_core.supports import SUPPORTS


class Drawn(NamedTuple):
    """The name and seed that regenerate a support, see `drawn_support`."""

    name: str
    seed: int
    atoms: int | None = None  # how many are drawn, of which the dictionary has the first; None for as many as it has


class Dictionary(nn.Module):
    """Atoms as `values` (n_latents, degree) and, where atoms are sparse, the rows of their values.

    Without a `support` atoms use the first `degree` rows, which are all of them where atoms are dense.

    Abstract: use `SparseDictionary`, `NearDictionary`, `FrozenDictionary`, `DenseDictionary` or `ActivationDictionary`.
    An atom is its values scaled to unit l2 norm; the gradient flows through the norm. `value_bits` below 32 says that
    values are whole numbers of so many bits (`sae_core.quantised`), which is how they are stored. Values that are to
    become such are trained as floats, and atoms are made of what they round to (`rounded_to`).

    Rows are coordinates in `basis`: atom j, seen from outside, is Q^T w_j (`dense_atoms`). Whoever works with values
    and support first takes activations `into` the basis. The first `always_on` rows are in no atom's support: there the
    SAE keeps an activation as it is.
    """

    rows_of_atoms: ClassVar[tuple[str, ...]] = ("values", "support")  # the tensors, or None, with a row for each atom

    values: torch.Tensor  # a parameter where values are learned
    support: torch.Tensor | None  # int64 (n_latents, degree), None where atoms use the first rows
    drawn: Drawn | None  # name and seed of the support, None where no seed regenerates it
    d_in: int
    basis: Basis
    always_on: int = 0
    value_bits: float = 32
    rounded_to: Grid | None = None  # what values are rounded to where they are used, while they are trained so

    @property
    def n_latents(self) -> int:
        return self.values.shape[0]

    @property
    def degree(self) -> int:
        return self.values.shape[1]

    @property
    def rows(self) -> int:
        """How many of the first rows hold all that atoms use: fewer than d_in in a dictionary of low rank."""
        return self.d_in if self.support is not None else self.degree

    def coordinates(self, x: torch.Tensor) -> torch.Tensor:
        """Return the coordinates in the basis of each x (tokens, d_in), those that atoms use: (tokens, `rows`)."""
        return self.basis.into(x) if self.rows == self.d_in else self.basis.leading(x, self.rows)

    def coordinates_multiply_adds(self) -> int:
        """Return the multiply-adds that `coordinates` takes for one row."""
        if self.rows == self.d_in:
            return self.basis.multiply_adds(self.d_in)
        return self.basis.leading_multiply_adds(self.d_in, self.rows)

    def unit_values(self, backend: str = "auto") -> torch.Tensor:
        """Return the atoms' entries on their support, each atom of unit l2 norm: (n_latents, degree)."""
        return get_backend(backend, self.values.device).unit_norm(self._rounded(self.values))

    def kernels(self, backend: str) -> Backend | OnPacked:
        """Return what computes on these atoms as `stored_atoms` gives them: the backend called `backend`."""
        return get_backend(backend, self.values.device)

    def stored_atoms(self, backend: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the atoms as `kernels` takes them, and their support: unit values, unless atoms stay packed."""
        return self.unit_values(backend), self.support

    def dense_atoms(self, part: slice = slice(None)) -> torch.Tensor:
        """Return some atoms, of unit norm, in the LM's own coordinates: (atoms, d_in)."""
        unit = get_backend("auto", self.values.device).unit_norm(self._rounded(self.values[part]))
        return self.basis.out_of(densify(unit, None if self.support is None else self.support[part], self.d_in))

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        return values if self.rounded_to is None else straight_through(values, self.rounded_to)

    @torch.no_grad()
    def set_atoms(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Aim `latents` (r,) at `directions` (r, d_in): restricted to the support, unit norm, / sqrt(degree)."""
        directions = self.coordinates(directions)
        if self.support is not None:
            directions = directions.gather(1, self.support[latents])
        self.values[latents] = nn.functional.normalize(directions, dim=1) / self.degree**0.5

    def constrain(self) -> None:
        """Bring values that a training step has changed back to where they may be; here they may be anything."""


class SparseDictionary(Dictionary):
    """Atoms on a left-regular support.

    Args:
        d_in: rows of the dictionary (the paper's m).
        support: int (n_latents, degree), sorted distinct rows of each atom.
        generator: draws the initial values, N(0, 1) / sqrt(degree).
        drawn: the name and seed of `support`, None where no seed regenerates it.
        basis: the basis that atoms are sparse in; the neurons' unless given.
        always_on: how many of the first rows no atom uses.

    Raises:
        ValueError: an atom has no rows or more than d_in, or a row is outside always_on..d_in-1, out of order or twice
            in an atom.
    """

    def __init__(
        self,
        d_in: int,
        support: torch.Tensor,
        generator: torch.Generator,
        drawn: Drawn | None = None,
        basis: Basis | None = None,
        always_on: int = 0,
    ):
        super().__init__()
        self.d_in, self.drawn, self.basis, self.always_on = d_in, drawn, basis or Neurons(), always_on
        self.register_buffer("support", _checked_support(d_in, support, always_on), persistent=False)
        self.values = nn.Parameter(torch.randn(support.shape, generator=generator) / support.shape[1] ** 0.5)


class NearDictionary(SparseDictionary):
    """Atoms on a left-regular support that may turn only so far away from the random values that they start at.

    Arguments and errors are those of `SparseDictionary`, and

    Args:
        cosine: the least cosine of an atom with its start, in 0..1.

    Raises:
        ValueError: `cosine` is outside 0..1.
    """

    rows_of_atoms = ("values", "support", "start")

    start: torch.Tensor  # (n_latents, degree), each atom of unit l2 norm

    def __init__(
        self,
        d_in: int,
        support: torch.Tensor,
        generator: torch.Generator,
        drawn: Drawn | None,
        cosine: float,
        basis: Basis | None = None,
        always_on: int = 0,
    ):
        super().__init__(d_in, support, generator, drawn, basis, always_on)
        if not 0 <= cosine <= 1:
            raise ValueError(f"cosine={cosine} must be in 0..1")
        self.cosine = cosine
        start = nn.functional.normalize(self.values.detach(), dim=1)
        self.register_buffer("start", start, persistent=False)

    @torch.no_grad()
    def constrain(self) -> None:
        """Turn each atom that has gone too far back to the nearest direction that is allowed; its norm stays."""
        self.values.copy_(self._allowed(self.values, self.start))

    @torch.no_grad()
    def set_atoms(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        super().set_atoms(latents, directions)
        self.values[latents] = self._allowed(self.values[latents], self.start[latents])

    def _allowed(self, values: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        norms, along = values.norm(dim=1, keepdim=True), (values * start).sum(1, keepdim=True)
        sideways = nn.functional.normalize(values - along * start, dim=1)
        nearest = norms * (self.cosine * start + (1 - self.cosine**2) ** 0.5 * sideways)
        return torch.where(along < self.cosine * norms, nearest, values)


class FrozenDictionary(Dictionary):
    """Atoms on a left-regular support whose values are drawn from a seed and never change, so that neither is stored.

    Arguments and errors are those of `SparseDictionary`, but `drawn` is required, and

    Args:
        values_seed: draws the values (`frozen_values`); the support's seed unless given.
    """

    def __init__(
        self,
        d_in: int,
        support: torch.Tensor,
        drawn: Drawn,
        basis: Basis | None = None,
        always_on: int = 0,
        values_seed: int | None = None,
    ):
        super().__init__()
        self.d_in, self.drawn, self.basis, self.always_on = d_in, drawn, basis or Neurons(), always_on
        self.values_seed = drawn.seed if values_seed is None else values_seed
        self.register_buffer("support", _checked_support(d_in, support, always_on), persistent=False)
        values = frozen_values(support.shape[0], support.shape[1], self.values_seed)
        self.register_buffer("values", values, persistent=False)

    def set_atoms(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Do nothing: these atoms never change."""


class DenseDictionary(Dictionary):
    """Atoms that use every row, degree = d_in, or all of the first `rank` rows of a basis, degree = rank.

    Initial values are N(0, 1) / sqrt(degree).

    Args:
        rank: how many rows atoms use; d_in unless given.
        basis: the basis whose rows they are; the neurons' unless given.

    Raises:
        ValueError: n_latents is below 1, or the rank outside 1..d_in.
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        generator: torch.Generator,
        rank: int | None = None,
        basis: Basis | None = None,
    ):
        super().__init__()
        check_latents(n_latents)
        degree = d_in if rank is None else rank
        check_degree(d_in, degree)
        self.d_in, self.support, self.drawn, self.basis = d_in, None, None, basis or Neurons()
        self.values = nn.Parameter(torch.randn(n_latents, degree, generator=generator) / degree**0.5)


class ActivationDictionary(DenseDictionary):
    """Dense atoms that are activations of a pool, each with its number in it.

    Args:
        tokens: how many activations, the first of the pool, atoms are chosen from.

    Raises:
        ValueError: n_latents is below 1.
    """

    rows_of_atoms = ("values", "support", "sources")

    sources: torch.Tensor  # int64 (n_latents,), in 0..tokens-1; 0 before they are chosen

    def __init__(self, d_in: int, n_latents: int, generator: torch.Generator, tokens: int):
        super().__init__(d_in, n_latents, generator)
        self.tokens = tokens
        self.register_buffer("sources", torch.zeros(n_latents, dtype=torch.int64))


def drawn_support(drawn: Drawn, d_in: int, n_latents: int, degree: int, always_on: int = 0) -> torch.Tensor:
    """Draw the support that `SUPPORTS` calls `drawn.name`, on the rows from `always_on` on: int64 (n_latents, degree).

    Where more atoms are drawn (`Drawn.atoms`), it is that of the first of them.

    Raises:
        ValueError: degree is outside 1..d_in - always_on, or n_latents is below 1.
    """
    return SUPPORTS[drawn.name](d_in - always_on, drawn.atoms or n_latents, degree, drawn.seed)[:n_latents] + always_on


def frozen_values(n_latents: int, degree: int, seed: int) -> torch.Tensor:
    """Draw nearly Gaussian values of variance 1 / degree, the same bit for bit on every platform: float32 (n, degree).

    A value is the sum of the four 16-bit words of a raw PCG64 draw, seeded with (seed, 1), less its mean (Irwin-Hall).
    """
    raw = np.random.PCG64([seed, 1]).random_raw(n_latents * degree)
    words = sum((raw >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (0, 16, 32, 48))
    centred = np.asarray(words).astype(np.int64) * 2 - 4 * 0xFFFF  # its variance is 4 * 4 * (2^32 - 1) / 12
    deviation = (16 * (2**32 - 1) / 12 * degree) ** 0.5
    return torch.from_numpy((centred / deviation).astype(np.float32)).view(n_latents, degree)


def _checked_support(d_in: int, support: torch.Tensor, always_on: int) -> torch.Tensor:
    """Return the support as int64. Raises ValueError unless each atom has sorted distinct rows in always_on..d_in-1."""
    check_degree(d_in, support.shape[1])
    if len(support) and (int(support.min()) < always_on or int(support.max()) >= d_in):
        raise ValueError(
            f"support rows {int(support.min())}..{int(support.max())} must be in {always_on}..{d_in - 1} (d_in)"
        )
    if not bool((support[:, 1:] > support[:, :-1]).all()):
        raise ValueError("support: each atom's rows must be sorted and distinct")
    return support.to(torch.int64)
