"""Dense dictionaries of fewer latents, n' instead of n, that hold as much as a sparse one of the same d and n."""

from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import TOPK, Arm, Sizes, TiedArm, checked, later
from sae_core.arms.dense_own import DenseWarmTied
from sae_core.arms.dense_tied import DenseTied
from sae_core.sae import SAE
from sae_core.storage import Layout, bits_per_index
from sae_core.supports import check_degree

VALUES, PARAMETERS, BYTES = "values", "parameters", "bytes"


@dataclass(frozen=True)
class DenseMatched(TiedArm):
    """dense_tied with n' latents: as many learned decoder values as a sparse arm (n' = d*n/m), or as `match` says.

    Args:
        match: `values`, learned decoder values: m*n' = d*n; `parameters`, biases too: (m+1)*n' = (d+1)*n; or `bytes` of
            a data-driven support, whose packed indices are stored beside its values: (m+1)*n' = (d+1)*n + d*n*b/32 with
            b = ceil(log2 m). (The bytes of a seeded support are those of its parameters.) n' is rounded, halves up.
        encoder: as in `TiedArm`; a pursuit has no encoder bias, which leaves m*n' and d*n of the above.
    """

    n_latents: int
    degree: int
    k: int
    encoder: str = later(TOPK)
    match: str = later(VALUES)

    def __post_init__(self):
        super().__post_init__()
        check_match(self.match)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return named("dense_matched", self.match)

    def sizes(self, d_in: int) -> Sizes:
        check_degree(d_in, self.degree)
        bias = self.encoder == TOPK
        return checked(matched(d_in, self.n_latents, self.degree, self.match, d_in, bias), d_in, self.k)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, _, k = self.sizes(d_in)
        return DenseTied(n_latents, k, self.encoder).build(d_in, seed, scale)


@dataclass(frozen=True)
class DenseMatchedOwn(Arm):
    """dense_warmtied with n' latents, `match` as in `DenseMatched`.

    Its encoder's weights count among the parameters and bytes, (2m+1)*n', not among the decoder values, m*n'.
    """

    n_latents: int
    degree: int
    k: int
    match: str = VALUES
    can_be_quantised = False

    def __post_init__(self):
        check_match(self.match)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return named("dense_matched_own", self.match)

    def sizes(self, d_in: int) -> Sizes:
        check_degree(d_in, self.degree)
        return checked(matched(d_in, self.n_latents, self.degree, self.match, 2 * d_in, True), d_in, self.k)

    def layout(self, d_in: int) -> Layout:
        return super().layout(d_in)._replace(own_encoder=True)

    def build(self, d_in: int, seed: int, scale: float = 1.0) -> SAE:
        n_latents, _, k = self.sizes(d_in)
        return DenseWarmTied(n_latents, k).build(d_in, seed, scale)


def check_match(match: str) -> None:
    if match not in (VALUES, PARAMETERS, BYTES):
        raise ValueError(f"sae.match={match} must be {VALUES}, {PARAMETERS} or {BYTES}")


def named(name: str, match: str) -> str:
    return name if match == VALUES else f"{name}_{match}"


def matched(d_in: int, n_latents: int, degree: int, match: str, weights: int, bias: bool) -> int:
    """n', a dense latent having `weights` weights and, if `bias`, one bias; counted in 32nds of a value."""
    if match == VALUES:
        return _rounded(degree * n_latents, d_in)
    values = 32 * n_latents * (degree + bias)
    indices = n_latents * degree * bits_per_index(d_in) if match == BYTES else 0
    return _rounded(values + indices, 32 * (weights + bias))


def _rounded(a: int, b: int) -> int:
    """a / b, halves up."""
    return (2 * a + b) // (2 * b)
