from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SeededArm


@dataclass(frozen=True)
class Expander(SeededArm):
    """Random left-d-regular support, tied encoder; learns d*n + n + m values."""

    name = "expander"
