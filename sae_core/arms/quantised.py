from __future__ import annotations

from dataclasses import dataclass

import torch

from sae_core.arms.base import Arm, DerivedArm
from sae_core.arms.rounded import RoundedArm
from sae_core.quantised import quantised
from sae_core.sae import SAE


@dataclass(frozen=True)
class Quantised(RoundedArm, DerivedArm):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Another arm's trained SAE with its values rounded to few bits; no further training.

    `RoundedArm` says what `of` and `bits` are. Each atom, and each row of an encoder's own weights, is rounded so that
    its cosine with what it was is largest (`sae_core.rounding.whole_numbers`).
    """

    by_gradient = False

    @property
    def starts_from(self) -> Arm:
        return self.of

    def derive(self, trained: SAE, seed: int = 0, sample: torch.Tensor | None = None) -> SAE:
        return quantised(self.in_basis(trained, seed), self.bits, self.encoder_bits)
