"""What every arm is: a frozen choice of sizes that builds SAEs once d_in and a seed are known.

`n_latents`, `k` and `degree` are the paper's n, k and d; `d_in`, its m, comes from the LM.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch

from sae_core.dictionary import Dictionary, drawn_dictionary
from sae_core.encoders import ByPursuit, TiedTopK
from sae_core.pursuit.solvers import canonical, ends_in_least_squares
from sae_core.regrow import SupportSchedule
from sae_core.sae import SAE
from sae_core.storage import AS_INDICES, FROM_SEED, Layout
from sae_core.supports import CellError, check_degree

TOPK = "topk"


class Sizes(NamedTuple):
    """What an arm builds for a given d_in."""

    n_latents: int
    degree: int  # non-zero values per atom; d_in where atoms are dense
    k: int


def later(default: Any) -> Any:
    """A field that came after runs had been named by a hash of the others: at its default it is no part of the name."""
    return field(default=default, metadata={"later": True})


class Arm(ABC):
    """An SAE starts as `build` makes it, or a `DerivedArm`'s as `derive` makes it of another arm's trained one. Then
    its parameters are trained by gradient, its support following `schedule`; where `by_gradient` is False, a
    `FittedArm`'s are found by `fit`, and others' stay.
    """

    name: ClassVar[str]
    by_gradient: ClassVar[bool] = True
    sparse_codes: ClassVar[bool] = True  # few of its latents are in use on a token
    can_be_quantised: ClassVar[bool] = True  # it stores decoder values, and its encoder needs nothing besides

    @property
    def label(self) -> str:
        """The arm's name for people and figures, with what sets it apart from its plain form: `expander+mp_refit`."""
        return self.name

    @property
    def schedule(self) -> SupportSchedule | None:
        """How the support changes in training; None: it stays."""
        return None

    @abstractmethod
    def sizes(self, d_in: int) -> Sizes:
        """Raises ValueError for a size out of range, CellError for a cell to leave out; allocates nothing."""

    def layout(self, d_in: int) -> Layout:
        """What the trained SAE will keep; dense and tied unless an arm says more. Raises and allocates as `sizes`."""
        n_latents, degree, _ = self.sizes(d_in)
        return Layout(d_in, n_latents, degree)

    @abstractmethod
    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        """A fresh SAE; support and initial values follow from `seed`."""


class FittedArm(Arm):
    """An arm whose parameters are not found by gradient. Abstract."""

    by_gradient = False

    @abstractmethod
    def fit(self, sae: SAE, batches: Iterable[torch.Tensor]) -> None:
        """Find the parameters of `sae`, in place, from all of a pool's activations (tokens, d_in) in the LM's units."""


class DerivedArm(Arm):
    """An arm that starts from another one's trained SAE. Abstract."""

    @property
    @abstractmethod
    def starts_from(self) -> Arm:
        """The arm whose trained SAE this one starts from."""

    @abstractmethod
    def derive(self, trained: SAE) -> SAE:
        """A new SAE from the trained one of `starts_from`, which stays as it is."""

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        return self.derive(self.starts_from.build(d_in, seed, scale))


class TiedArm(Arm):
    """An arm whose encoder has no weights of its own. Abstract.

    `encoder` is `topk`, the paper's one-shot W^T h and its k largest, or a pursuit that ends in least squares
    (`mp_refit`, `omp`, `gomp4`, ...; `sae_core.pursuit.solvers`), in training and after it.
    """

    encoder: str

    def __post_init__(self):
        object.__setattr__(self, "encoder", encoder_name(self.encoder))

    @property
    def label(self) -> str:
        return self.name if self.encoder == TOPK else f"{self.name}+{self.encoder}"

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(pursuit=None if self.encoder == TOPK else self.encoder)


@dataclass(frozen=True)
class SparseArm(TiedArm):
    """Left-d-regular atoms; `encoder` as in `TiedArm`. Abstract."""

    n_latents: int
    degree: int
    k: int
    encoder: str = later(TOPK)

    def sizes(self, d_in: int) -> Sizes:
        check_degree(d_in, self.degree)
        return checked(self.n_latents, self.degree, self.k)

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(support=AS_INDICES)


class SeededArm(SparseArm):
    """A support that a seed regenerates: the one that `SUPPORTS` calls by the arm's name. Abstract."""

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(support=FROM_SEED)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, degree, k = self.sizes(d_in)
        dictionary = drawn_dictionary(self.name, d_in, n_latents, degree, seed)
        return SAE(dictionary, tied(dictionary, self.encoder), k, scale)


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


def tied(dictionary: Dictionary, encoder: str) -> TiedTopK | ByPursuit:
    return TiedTopK(dictionary) if encoder == TOPK else ByPursuit(encoder)


def checked(n_latents: int, degree: int, k: int) -> Sizes:
    """The sizes. Raises ValueError for one out of range, CellError for n <= 2k."""
    if n_latents < 0:
        raise ValueError(f"n={n_latents} must be at least 1")
    if k < 1:
        raise ValueError(f"k={k} must be in 1..{n_latents} (n)")
    if n_latents <= 2 * k:
        raise CellError(f"n={n_latents} <= 2k={2 * k}: {k}-sparse codes of {n_latents} atoms cannot be unique")
    return Sizes(n_latents, degree, k)
