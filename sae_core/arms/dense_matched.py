"""Dense dictionaries of fewer latents, n' instead of n, that hold as much as a sparse one of the same d and n."""

from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import (
    BATCH_TOPK,
    ONE_SHOT,
    TOPK,
    Arm,
    Sizes,
    Start,
    TiedArm,
    checked_basis,
    checked_sizes,
    label_in_basis,
    label_with_encoder,
    one_shot_name,
)
from sae_core.arms.dense_own import DenseWarmTied
from sae_core.arms.dense_tied import DenseTied
from sae_core.bases import NEURONS, basis_values
from sae_core.hashed import later
from sae_core.prefixes import checked_parts, label_with_prefixes, prefix_sizes
from sae_core.sae import SAE
from sae_core.sizes import CellError, bits_per_index, check_degree, check_latents
from sae_core.storage import Layout

VALUES, PARAMETERS, BYTES = "values", "parameters", "bytes"


@dataclass(frozen=True)
class DenseMatched(TiedArm):
    """dense_tied with n' latents, so that it holds as much as a sparse arm of d and n; `match` says in which sense.

    Args:
        match: what is equal; n' is rounded, halves up.
            `values`      learned decoder values: m*n' = d*n
            `parameters`  biases too: (m+1)*n' = (d+1)*n
            `bytes`       bytes of a data-driven support, with indices of b = ceil(log2 m) bits beside its values:
                          (m+1)*n' = (d+1)*n + d*n*b/32; files today take fewer (`sae_core.packing`), so that this
                          dense dictionary is a little larger than the sparse one's file
            The bytes of a seeded support are those of its parameters.
        encoder: see `TiedArm`; a pursuit has no encoder bias, so m+1 and d+1 above become m and d.
        basis: the sparse arm's, whose stored values count as well: R reflections, of R*m values, make n' larger by R.
            The dense atoms themselves are in no basis.
        prefixes: see `TiedArm`; shares are of n'.
    """

    n_latents: int
    degree: int
    k: int
    encoder: str = later(TOPK)
    match: str = later(VALUES)
    basis: str = later(NEURONS)
    prefixes: tuple[int | str, ...] = later(())
    turns_freely = True

    def __post_init__(self):
        super().__post_init__()
        check_match(self.match)
        checked_basis(self.basis)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _name_with_match("dense_matched", self.match)

    @property
    def untrained_label(self) -> str:
        return label_in_basis(self.name, self.basis)

    def sizes(self, d_in: int) -> Sizes:
        bias = self.encoder in ONE_SHOT
        others = basis_values(self.basis, d_in)
        n_latents = matched_latents(d_in, self.n_latents, self.degree, self.match, d_in, bias, others)
        sizes = _dense_sizes(d_in, n_latents, self.k)
        prefix_sizes(self.prefixes, n_latents)
        return sizes

    def make(self, start: Start) -> SAE:
        n_latents, _, k = self.sizes(start.d_in)
        return DenseTied(n_latents, k, self.encoder, self.prefixes).make(start)


@dataclass(frozen=True)
class DenseMatchedOwn(Arm):
    """dense_warmtied with n' latents, so that it holds as much as a sparse arm; see `match` of `DenseMatched`.

    Its encoder's weights count among the parameters and bytes, (2m+1)*n', not among the decoder values, m*n'.
    """

    n_latents: int
    degree: int
    k: int
    match: str = VALUES
    encoder: str = later(TOPK)
    prefixes: tuple[int | str, ...] = later(())
    own_encoder = True
    turns_freely = True

    def __post_init__(self):
        check_match(self.match)
        one_shot_name(self.encoder)
        object.__setattr__(self, "prefixes", checked_parts(self.prefixes))

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _name_with_match("dense_matched_own", self.match)

    @property
    def label(self) -> str:
        return label_with_encoder(label_with_prefixes(self.name, self.prefixes), self.encoder)

    def sizes(self, d_in: int) -> Sizes:
        n_latents = matched_latents(d_in, self.n_latents, self.degree, self.match, 2 * d_in, bias=True)
        sizes = _dense_sizes(d_in, n_latents, self.k)
        prefix_sizes(self.prefixes, n_latents)
        return sizes

    def layout(self, d_in: int) -> Layout:
        layout = super().layout(d_in)
        prefixes = prefix_sizes(self.prefixes, layout.n_latents)
        return layout._replace(own_encoder=True, batch_topk=self.encoder == BATCH_TOPK, prefixes=prefixes)

    def make(self, start: Start) -> SAE:
        n_latents, _, k = self.sizes(start.d_in)
        return DenseWarmTied(n_latents, k, self.encoder, self.prefixes).make(start)


def check_match(match: str) -> None:
    """Raise ValueError unless `match` names a count that can be made equal."""
    if match not in (VALUES, PARAMETERS, BYTES):
        raise ValueError(f"sae.match={match} must be {VALUES}, {PARAMETERS} or {BYTES}")


def _name_with_match(name: str, match: str) -> str:
    return name if match == VALUES else f"{name}_{match}"


def matched_latents(
    d_in: int, n_latents: int, degree: int, match: str, weights: int, bias: bool, others: int = 0
) -> int:
    """Return n', the number of dense latents that hold as much as `n_latents` sparse ones; it may round to 0.

    Args:
        weights: weights of a dense latent, those of an encoder of its own included.
        bias: whether each latent, dense or sparse, has an encoder bias.
        others: values that the sparse dictionary stores beside those of its latents.

    Raises:
        ValueError: d or n is out of range; a CellError for d > d_in.
    """
    check_degree(d_in, degree)
    check_latents(n_latents)
    if match == VALUES:
        return _rounded_quotient(degree * n_latents + others, d_in)
    value_bits = 32 * (n_latents * (degree + bias) + others)
    index_bits = n_latents * degree * bits_per_index(d_in) if match == BYTES else 0
    return _rounded_quotient(value_bits + index_bits, 32 * (weights + bias))


def _dense_sizes(d_in: int, n_latents: int, k: int) -> Sizes:
    """Return the sizes of a dense SAE of n' latents; raise CellError where n' is 0."""
    if n_latents == 0:
        raise CellError(f"n'=0: {d_in} values (d_in) of one dense latent are more than the sparse dictionary holds")
    return checked_sizes(d_in, n_latents, d_in, k)


def _rounded_quotient(a: int, b: int) -> int:
    """Return a / b rounded to a whole number, halves up."""
    return (2 * a + b) // (2 * b)
