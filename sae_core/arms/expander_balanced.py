from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SeededArm


@dataclass(frozen=True)
class ExpanderBalanced(SeededArm):
    """Random support of equal row degrees, atoms sharing few pairs of rows; learns d*n + n + m values."""

    name = "expander_balanced"
