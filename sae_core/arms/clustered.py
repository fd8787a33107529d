from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SeededArm


@dataclass(frozen=True)
class Clustered(SeededArm):
    """The paper's structured mask: rows lie in disjoint blocks of d, each atom on one block.

    d*n + n + m values are learned (`sae_core.supports.clustered_support`).
    """

    name = "clustered"
