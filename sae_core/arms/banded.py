from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SeededArm


@dataclass(frozen=True)
class Banded(SeededArm):
    """Contiguous rows, cyclic; learns d*n + n + m values."""

    name = "banded"
