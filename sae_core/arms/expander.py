from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SeededArm


@dataclass(frozen=True)
class Expander(SeededArm):
    """The paper's Expander SAE: a random left-d-regular support and a tied encoder; d*n + n + m values are learned."""

    name = "expander"
