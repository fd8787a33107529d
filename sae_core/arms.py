"""The arms of the frontier. An arm is a frozen choice of sizes; it builds SAEs once d_in and a seed are known.

Config files name these classes, and their fields are the config's keys. `n_latents`, `k` and `degree` are the paper's
n, k and d; `d_in`, its m, comes from the LM. Definitions: paper, sections 2 and 4 (baselines).

Arms without an encoder of their own take `encoder`: `topk`, the paper's one-shot W^T h and its k largest, or a pursuit
that ends in least squares (`mp_refit`, `omp`, `gomp4`, ...; `sae_core.pursuit.solvers`), in training and after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch

from sae_core.dictionary import DenseDictionary, Dictionary, expander_dictionary
from sae_core.encoders import ByPursuit, OwnTopK, TiedTopK
from sae_core.pursuit.solvers import canonical, ends_in_least_squares
from sae_core.sae import SAE
from sae_core.supports import check_degree


class CellError(ValueError):
    """A cell that a grid leaves out: n <= 2k, where k-sparse codes cannot be unique."""


class Sizes(NamedTuple):
    """What an arm builds for a given d_in."""

    n_latents: int
    degree: int  # non-zero values per atom; d_in where atoms are dense
    k: int


class Arm(Protocol):
    """What every arm offers."""

    name: ClassVar[str]

    def sizes(self, d_in: int) -> Sizes:
        """Raises ValueError for a size out of range, CellError for n <= 2k; allocates nothing."""
        ...

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        """A fresh SAE; support and initial values follow from `seed`."""
        ...


TOPK = "topk"


def encoder_name(name: str) -> str:
    """`topk`, or a pursuit's one name. Raises ValueError for any that cannot be trained with."""
    if name == TOPK:
        return name
    try:
        name = canonical(name)
    except ValueError as error:
        raise ValueError(f"sae.encoder={error}; or topk") from None
    if not ends_in_least_squares(name):
        raise ValueError(f"sae.encoder={name} does not end in least squares, which its gradient needs: try mp_refit")
    return name


def arm_label(arm: Arm) -> str:
    """The arm's name for people and figures: with its encoder where that is a pursuit, `expander+mp_refit`."""
    encoder = getattr(arm, "encoder", TOPK)
    return arm.name if encoder == TOPK else f"{arm.name}+{encoder}"


def _tied(dictionary: Dictionary, encoder: str) -> TiedTopK | ByPursuit:
    return TiedTopK(dictionary) if encoder == TOPK else ByPursuit(encoder)


def _checked(n_latents: int, degree: int, k: int) -> Sizes:
    if n_latents < 0:
        raise ValueError(f"n={n_latents} must be at least 1")
    if k < 1:
        raise ValueError(f"k={k} must be in 1..{n_latents} (n)")
    if n_latents <= 2 * k:
        raise CellError(f"n={n_latents} <= 2k={2 * k}: {k}-sparse codes of {n_latents} atoms cannot be unique")
    return Sizes(n_latents, degree, k)


@dataclass(frozen=True)
class Expander:
    """Random left-d-regular support, tied encoder; learns d*n + n + m values."""

    n_latents: int
    degree: int
    k: int
    encoder: str = TOPK
    name: ClassVar[str] = "expander"

    def __post_init__(self):
        object.__setattr__(self, "encoder", encoder_name(self.encoder))

    def sizes(self, d_in: int) -> Sizes:
        check_degree(d_in, self.degree)
        return _checked(self.n_latents, self.degree, self.k)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, degree, k = self.sizes(d_in)
        dictionary = expander_dictionary(d_in, n_latents, degree, seed)
        return SAE(dictionary, _tied(dictionary, self.encoder), k, scale)


@dataclass(frozen=True)
class DenseTied:
    """Dense atoms, W_enc = W^T; learns m*n + n + m values."""

    n_latents: int
    k: int
    encoder: str = TOPK
    name: ClassVar[str] = "dense_tied"

    def __post_init__(self):
        object.__setattr__(self, "encoder", encoder_name(self.encoder))

    def sizes(self, d_in: int) -> Sizes:
        return _checked(self.n_latents, d_in, self.k)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, _, k = self.sizes(d_in)
        dictionary = DenseDictionary(d_in, n_latents, torch.Generator().manual_seed(seed))
        return SAE(dictionary, _tied(dictionary, self.encoder), k, scale)


@dataclass(frozen=True)
class DenseMatched:
    """dense_tied with n' = round(d*n/m) latents: its m*n' learned decoder values equal the expander's d*n."""

    n_latents: int
    degree: int
    k: int
    encoder: str = TOPK
    name: ClassVar[str] = "dense_matched"

    def __post_init__(self):
        object.__setattr__(self, "encoder", encoder_name(self.encoder))

    def sizes(self, d_in: int) -> Sizes:
        check_degree(d_in, self.degree)
        matched = (2 * self.degree * self.n_latents + d_in) // (2 * d_in)  # round(d*n/m), halves up
        return _checked(matched, d_in, self.k)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, _, k = self.sizes(d_in)
        return DenseTied(n_latents, k, self.encoder).build(d_in, seed, scale)


@dataclass(frozen=True)
class DenseWarmTied:
    """Dense atoms and an encoder of its own that starts at W^T (the paper's "Dense-SAE"): 2*m*n + n + m values."""

    n_latents: int
    k: int
    name: ClassVar[str] = "dense_warmtied"

    def sizes(self, d_in: int) -> Sizes:
        return _checked(self.n_latents, d_in, self.k)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        return _dense_own(self.sizes(d_in), d_in, seed, scale, start="transpose")


@dataclass(frozen=True)
class DenseRandInit:
    """Dense atoms and an encoder of its own that starts at random: 2*m*n + n + m values."""

    n_latents: int
    k: int
    name: ClassVar[str] = "dense_randinit"

    def sizes(self, d_in: int) -> Sizes:
        return _checked(self.n_latents, d_in, self.k)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        return _dense_own(self.sizes(d_in), d_in, seed, scale, start="random")


def _dense_own(sizes: Sizes, d_in: int, seed: int, scale: float, start: str) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    dictionary = DenseDictionary(d_in, sizes.n_latents, generator)
    return SAE(dictionary, OwnTopK(dictionary, start, generator), sizes.k, scale)
