from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sae_core.arms.base import Arm, Sizes
from sae_core.bases import BASIS_BITS
from sae_core.rounding import GRIDS, grid_of
from sae_core.storage import Layout


@dataclass(frozen=True)
class RoundedArm(Arm):
    """Another arm with its decoder values kept as whole numbers of few bits, those of a basis of 8 bits. Abstract.

    Args:
        of: the other arm; it stores decoder values in 32 bits, and no encoder weights (`Arm.can_be_quantised`).
        bits: bits of each value: 8, 4, 2, 1.58 (for log2 3: -1, 0 and 1) or 1.
    """

    of: Arm
    bits: int | float
    suffix: ClassVar[str] = ""  # of the name, to say when values are rounded
    can_be_quantised = False

    def __post_init__(self):
        try:
            grid_of(self.bits)
        except ValueError as error:
            raise ValueError(f"sae.{error}") from None
        # 2 and 2.0 are one setting and must give one name.
        object.__setattr__(self, "bits", next(bits for bits in GRIDS if bits == self.bits))
        if not self.of.can_be_quantised:
            raise ValueError(
                f"sae.of={self.of.name} cannot be quantised: it must be an arm that stores decoder values in 32 bits "
                "and has no encoder weights of its own"
            )

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"{self.of.name}-{self.bits}bit{self.suffix}"

    @property
    def label(self) -> str:
        return f"{self.of.label}-{self.bits}bit{self.suffix}"

    @property
    def draws_support(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.draws_support

    def sizes(self, d_in: int) -> Sizes:
        return self.of.sizes(d_in)

    def layout(self, d_in: int) -> Layout:
        return self.of.layout(d_in)._replace(value_bits=grid_of(self.bits).stored_bits, basis_bits=BASIS_BITS)
