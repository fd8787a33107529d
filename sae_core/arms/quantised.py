from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import Arm, DerivedArm, Sizes
from sae_core.bases import BASIS_BITS
from sae_core.quantised import check_bits, quantised
from sae_core.sae import SAE
from sae_core.storage import Layout


@dataclass(frozen=True)
class Quantised(DerivedArm):
    """Another arm's trained SAE with its decoder values kept as whole numbers of 8 or 4 bits; no further training.

    The values of a basis are kept as whole numbers of 8 bits.

    Args:
        of: the other arm; it stores decoder values in 32 bits, and no encoder weights (`Arm.can_be_quantised`).
        bits: bits of each value, 4 or 8.
    """

    of: Arm
    bits: int
    by_gradient = False
    can_be_quantised = False

    def __post_init__(self):
        try:
            check_bits(self.bits)
        except ValueError as error:
            raise ValueError(f"sae.{error}") from None
        if not self.of.can_be_quantised:
            raise ValueError(
                f"sae.of={self.of.name} cannot be quantised: it must be an arm that stores decoder values in 32 bits "
                "and has no encoder weights of its own"
            )

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{self.of.name}-{self.bits}bit"

    @property
    def label(self) -> str:
        return f"{self.of.label}-{self.bits}bit"

    @property
    def draws_support(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.draws_support

    @property
    def starts_from(self) -> Arm:
        return self.of

    def sizes(self, d_in: int) -> Sizes:
        return self.of.sizes(d_in)

    def layout(self, d_in: int) -> Layout:
        return self.of.layout(d_in)._replace(value_bits=self.bits, basis_bits=BASIS_BITS)

    def derive(self, trained: SAE, seed: int = 0, sample: torch.Tensor | None = None) -> SAE:
        return quantised(trained, self.bits)
