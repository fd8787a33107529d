from __future__ import annotations

from dataclasses import dataclass

from sae_core.arms.base import SeededArm


@dataclass(frozen=True)
class Banded(SeededArm):
    """Atoms on contiguous rows, cyclically; d*n + n + m values are learned (`sae_core.supports.banded_support`)."""

    name = "banded"
    draws_support = False  # the sizes alone say which rows an atom uses
