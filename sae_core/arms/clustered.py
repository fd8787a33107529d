from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SeededArm


@dataclass(frozen=True)
class Clustered(SeededArm):
    """The paper's structured mask, rows in disjoint blocks of d and an atom on one of them; d*n + n + m values."""

    name = "clustered"
