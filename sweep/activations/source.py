"""The methods that a model must have for its activations to be captured, cached and streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class Source(Protocol):
    """An LM (`sweep.lm.model.LM`), or the synthetic model that stands in its place.

    Attributes:
        d_model: values of an activation.
    """

    d_model: int

    def capture(self, tokens: torch.Tensor, layers: Sequence[int]) -> dict[int, torch.Tensor]:
        """Return {layer: the activations after it (windows, length, d_model)} on token ids (windows, length)."""
        ...
