"""The base classes of arms. An arm is an immutable choice of sizes that builds SAEs once d_in and a seed are known.

An atom's support is the set of rows in which it may be non-zero (`sae_core.supports`).
`n_latents`, `k` and `degree` are the paper's n, k and d; `d_in`, its m, comes from the LM.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from sae_core.bases import NEURONS, Basis, basis_name, basis_sample, basis_shape, make_basis
from sae_core.dictionary import Dictionary, Drawn, SparseDictionary, drawn_support
from sae_core.encoders import BatchTopK, ByPursuit, Encoder, OneShot, TiedTopK
from sae_core.hashed import later
from sae_core.prefixes import checked_parts, label_with_prefixes, prefix_sizes
from sae_core.pursuit.solvers import canonical, ends_in_least_squares
from sae_core.regrow import SupportSchedule
from sae_core.rounding import Rounding
from sae_core.sae import SAE
from sae_core.sizes import CellError, check_degree, check_sparsity
from sae_core.storage import AS_INDICES, FROM_SEED, Layout

TOPK, BATCH_TOPK = "topk", "batch_topk"
ONE_SHOT = (TOPK, BATCH_TOPK)  # the encoders of one product; every other one is a pursuit


class Start(NamedTuple):
    """What an untrained SAE follows from beside its arm; `Arm.build` says what each is."""

    d_in: int
    seed: int
    scale: float
    sample: torch.Tensor | None
    support_seed: int


class Sizes(NamedTuple):
    """The sizes of the SAE that an arm builds for a given d_in."""

    n_latents: int
    degree: int  # non-zero values per atom; d_in where atoms are dense
    k: int


class Arm(ABC):
    """A choice of sizes, and of how an SAE of these sizes is made and trained. Abstract.

    `build` makes the SAE that training starts from; an arm with `starts_from` makes it by `derive` from that arm's
    trained one. Then the parameters are trained by gradient while the support follows `schedule`, and values are
    rounded by `rounding`. Where `by_gradient` is False, `fit` finds the parameters of a `FittedArm`, and those of any
    other arm stay as they are.
    """

    name: ClassVar[str]
    by_gradient: ClassVar[bool] = True
    sparse_codes: ClassVar[bool] = True  # few of its latents are in use on a token
    can_be_quantised: ClassVar[bool] = True  # it stores decoder values in 32 bits, and so any encoder weights it has
    own_encoder: ClassVar[bool] = False  # its encoder has weights of its own, a row for each latent
    draws_support: ClassVar[bool] = False  # a seed draws the support that it starts from
    turns_freely: ClassVar[bool] = False  # its atoms use every neuron, so that any orthogonal basis serves as well

    @property
    def label(self) -> str:
        """The arm's name for people and figures, with what sets it apart from its plain form: `expander+mp_refit`."""
        return self.name

    @property
    def schedule(self) -> SupportSchedule | None:
        """When and how far the support changes in training; None where it stays."""
        return None

    @property
    def rounding(self) -> Rounding | None:
        """How values are rounded while they are trained; None where they are not."""
        return None

    @property
    def starts_from(self) -> Arm | None:
        """The arm whose trained SAE this one starts from; None where it starts from fresh values."""
        return None

    @property
    def sample_tokens(self) -> int:
        """How many activations `build` wants to look at; 0 where what it builds does not follow the data."""
        return 0

    @abstractmethod
    def sizes(self, d_in: int) -> Sizes:
        """Return the sizes of the SAE for this d_in, without allocating anything.

        Raises:
            ValueError: a size is out of range.
            CellError: the sizes together make no SAE; a grid leaves this combination out.
        """

    def layout(self, d_in: int) -> Layout:
        """Return what the trained SAE will store; dense atoms and a tied encoder unless an arm overrides it.

        Like `sizes` it allocates nothing, and raises the same errors.
        """
        n_latents, degree, _ = self.sizes(d_in)
        return Layout(d_in, n_latents, degree)

    def build(
        self,
        d_in: int,
        seed: int,
        scale: float = 1.0,
        sample: torch.Tensor | None = None,
        support_seed: int | None = None,
    ) -> SAE:
        """Make an untrained SAE; its support and initial values follow from `seed`. Raises the errors of `sizes`.

        Args:
            scale: the scalar that the SAE multiplies activations with.
            sample: (`sample_tokens`, d_in) activations in the LM's units; without them, what would follow the data is
                random.
            support_seed: the seed that the support is drawn from, where that is not `seed`; an arm that draws no
                support (`draws_support`) has no use for it.
        """
        return self.make(Start(d_in, seed, scale, sample, seed if support_seed is None else support_seed))

    @abstractmethod
    def make(self, start: Start) -> SAE:
        """Make the SAE that `build` describes."""

    def derive(self, trained: SAE, seed: int = 0, sample: torch.Tensor | None = None) -> SAE:
        """Make a new SAE from the trained one of `starts_from`, which stays as it is; see `build` for the arguments.

        An arm that starts from another one's SAE has a way of its own to do so.
        """
        raise NotImplementedError(f"{self.name} starts from no other arm's SAE")


class FittedArm(Arm):
    """An arm whose parameters are not found by gradient. Abstract."""

    by_gradient = False

    def fit_tokens(self, pool_tokens: int) -> int:
        """Return how many of a pool's activations `fit` looks at: all, unless an arm overrides it."""
        return pool_tokens

    @abstractmethod
    def fit_products(self, pool_tokens: int, d_in: int) -> int:
        """Return about how many multiply-adds `fit` takes."""

    @abstractmethod
    def fit(self, sae: SAE, batches: Iterable[torch.Tensor]) -> None:
        """Find the parameters of `sae`, in place, from the activations of a pool.

        Args:
            batches: activations (tokens, d_in) in the LM's units, always in the same order.
        """


class DerivedArm(Arm):
    """An arm whose SAE starts from another arm's trained SAE. Abstract."""

    @property
    @abstractmethod
    def starts_from(self) -> Arm:
        """The arm whose trained SAE this one starts from."""

    @abstractmethod
    def derive(self, trained: SAE, seed: int = 0, sample: torch.Tensor | None = None) -> SAE:
        """Make a new SAE from the trained one of `starts_from`, which stays as it is; see `build` for the arguments."""

    def make(self, start: Start) -> SAE:
        """Derive the SAE from an untrained one of `starts_from`."""
        return self.derive(self.starts_from.make(start), start.seed, start.sample)


class TiedArm(Arm):
    """An arm whose encoder has no weights of its own. Abstract.

    `encoder` names what finds the codes, in training and after it: `topk` is the paper's one-shot encoder, the k
    largest entries of W^T h; `batch_topk` keeps k a token on average (`sae_core.encoders.BatchTopK`); any other name is
    a pursuit that ends in least squares, such as `mp_refit`, `omp` or `gomp4`, or nearly so, such as `mp_cg1`
    (`sae_core.pursuit.solvers`).

    `prefixes` are nested prefixes of the latents, each of which is trained to reconstruct by itself, such as
    `("1/16", "1/4")` (`sae_core.prefixes`): the loss is the sum of theirs and of that of all latents.
    """

    encoder: str
    prefixes: tuple[int | str, ...]

    def __post_init__(self):
        object.__setattr__(self, "encoder", encoder_name(self.encoder))
        object.__setattr__(self, "prefixes", checked_parts(self.prefixes))

    @property
    def label(self) -> str:
        return label_with_encoder(label_with_prefixes(self.untrained_label, self.prefixes), self.encoder)

    @property
    def untrained_label(self) -> str:
        """The label less the encoder: `expander@reflections64` where the basis is not the neurons'."""
        return self.name

    def layout(self, d_in: int) -> Layout:
        pursuit = None if self.encoder in ONE_SHOT else self.encoder
        layout = super().layout(d_in)
        prefixes = prefix_sizes(self.prefixes, layout.n_latents)
        return layout._replace(pursuit=pursuit, batch_topk=self.encoder == BATCH_TOPK, prefixes=prefixes)


@dataclass(frozen=True)
class SparseArm(TiedArm):
    """An arm of left-d-regular atoms: each has exactly `degree` rows that it may use. Abstract.

    Args:
        encoder, prefixes: see `TiedArm`.
        basis: the coordinates that atoms are sparse in (`sae_core.bases.names`). Where these follow the data, b_dec
            starts at the activations' mean.
        always_on: how many of the first coordinates of the basis are kept as they are on every token, beside the k
            atoms; no atom uses them. With reflections, they are the activations along the first principal directions.
    """

    n_latents: int
    degree: int
    k: int
    encoder: str = later(TOPK)
    basis: str = later(NEURONS)
    always_on: int = later(0)
    prefixes: tuple[int | str, ...] = later(())

    def __post_init__(self):
        super().__post_init__()
        checked_basis(self.basis)
        if self.always_on < 0:
            raise ValueError(f"sae.always_on={self.always_on} must be at least 0")

    @property
    def untrained_label(self) -> str:
        return label_in_basis(self.name, self.basis, self.always_on)

    @property
    def sample_tokens(self) -> int:
        return basis_sample(self.basis)

    def sizes(self, d_in: int) -> Sizes:
        if self.always_on >= d_in:
            raise CellError(f"sae.always_on={self.always_on} must be in 0..{d_in - 1} (less than d_in)")
        basis_shape(self.basis, d_in)
        prefix_sizes(self.prefixes, self.n_latents)
        return checked_sizes(d_in, self.n_latents, self.degree, self.k, self.always_on)

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(support=AS_INDICES, basis=self.basis)

    def make_basis(self, d_in: int, seed: int, sample: torch.Tensor | None) -> Basis:
        """Make the basis of an SAE, of a sample of activations if there is one; see `Arm.build`."""
        return make_basis(self.basis, d_in, seed, sample)

    def draw(self, start: Start, name: str) -> tuple[Basis, Drawn, torch.Tensor]:
        """Return the basis, and the support that `SUPPORTS` calls `name` with where it is drawn from."""
        n_latents, degree, _ = self.sizes(start.d_in)
        drawn = Drawn(name, start.support_seed)
        support = drawn_support(drawn, start.d_in, n_latents, degree, self.always_on)
        return self.make_basis(start.d_in, start.seed, start.sample), drawn, support

    def make_sae(self, dictionary: Dictionary, start: Start) -> SAE:
        """Make the untrained SAE of a dictionary, centred at the sample's mean where the basis follows the data."""
        prefixes = prefix_sizes(self.prefixes, dictionary.n_latents)
        sae = SAE(dictionary, tied_encoder(dictionary, self.encoder), self.k, start.scale, prefixes=prefixes)
        if self.sample_tokens:
            start_at_mean(sae, start)
        return sae


class SeededArm(SparseArm):
    """An arm whose support is drawn from the seed by `SUPPORTS[name]`, so that only the seed is stored. Abstract."""

    draws_support = True

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(support=FROM_SEED)

    def make(self, start: Start) -> SAE:
        basis, drawn, support = self.draw(start, self.name)
        generator = torch.Generator().manual_seed(start.seed)
        dictionary = SparseDictionary(start.d_in, support, generator, drawn, basis, self.always_on)
        return self.make_sae(dictionary, start)


def start_at_mean(sae: SAE, start: Start) -> None:
    """Let b_dec start at the mean of the sample of activations, if there is one."""
    if start.sample is not None:
        sae.b_dec.data.copy_(start.sample.float().mean(0) * start.scale)


def checked_basis(basis: str) -> str:
    """Return the name of a basis. Raises ValueError where none has it."""
    try:
        return str(basis_name(basis))
    except ValueError as error:
        raise ValueError(f"sae.basis={error}") from None


def label_in_basis(name: str, basis: str, always_on: int = 0) -> str:
    """Return an arm's name with its basis: `expander`, `expander@reflections64`, `expander@reflections64_on16`."""
    if basis == NEURONS and not always_on:
        return name
    return f"{name}@{basis}" + (f"_on{always_on}" if always_on else "")


def label_with_encoder(name: str, encoder: str) -> str:
    """Return an arm's name with what finds its codes: `expander`, `expander+batch_topk`, `expander+mp_refit`."""
    return name if encoder == TOPK else f"{name}+{encoder}"


def encoder_name(name: str) -> str:
    """Return the canonical name of an encoder. Raises ValueError unless there is one, and it can be trained with."""
    if name in ONE_SHOT:
        return name
    try:
        name = canonical(name)
    except ValueError as error:
        raise ValueError(f"sae.encoder={error}; or {' or '.join(ONE_SHOT)}") from None
    if not ends_in_least_squares(name):
        raise ValueError(f"sae.encoder={name} does not end in least squares, which its gradient needs: try mp_refit")
    return name


def one_shot_name(name: str) -> str:
    """Return the name of an encoder that may have weights of its own. Raises ValueError unless it is one-shot."""
    if name not in ONE_SHOT:
        raise ValueError(f"sae.encoder={name} must be {' or '.join(ONE_SHOT)}: a pursuit has no weights of its own")
    return name


def tied_encoder(dictionary: Dictionary, encoder: str) -> Encoder:
    """Make the encoder without weights that `TiedArm` calls `encoder`."""
    return one_shot_encoder(TiedTopK(dictionary), encoder) if encoder in ONE_SHOT else ByPursuit(encoder)


def one_shot_encoder(encoder: OneShot, name: str) -> Encoder:
    """Return an encoder of exactly k latents a token as the one called `name`."""
    return BatchTopK(encoder) if name == BATCH_TOPK else encoder


def checked_sizes(d_in: int, n_latents: int, degree: int, k: int, always_on: int = 0) -> Sizes:
    """Return the sizes of an SAE with k-sparse codes.

    Raises:
        ValueError: n, k or d is out of range.
        CellError: d > d_in - always_on, or n <= 2k; a grid leaves this combination out.
    """
    check_degree(d_in - always_on, degree)
    check_sparsity(n_latents, k)
    return Sizes(n_latents, degree, k)
