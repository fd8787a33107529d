from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SeededArm


@dataclass(frozen=True)
class ExpanderBalanced(SeededArm):
    """A random support of equal row degrees whose atoms share few pairs of rows; d*n + n + m values are learned."""

    name = "expander_balanced"
