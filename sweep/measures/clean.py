"""The unchanged LM's pass over held-out windows, which ablations and SAEs are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from sweep.corpus.windows import Windows
from sweep.lm.model import LM
from sweep.measures.positions import ALL, Positions


class CleanBatch(NamedTuple):
    """A batch of held-out windows, and what the unchanged LM makes of them."""

    tokens: torch.Tensor  # token ids (windows, length)
    real: torch.Tensor  # bool (windows, length), False at padding
    predicted: torch.Tensor  # bool (windows, length - 1), True at t if token t + 1 is real
    chosen: torch.Tensor  # bool (windows, length): the tokens that are replaced and measured
    not_ordinary: int | None  # how many real tokens are not ordinary; None where that is not known
    hidden: torch.Tensor  # activations at the hook point (windows, length, d_model)
    logits: torch.Tensor  # (windows, length, vocabulary)

    @property
    def h(self) -> torch.Tensor:
        """The activations of the chosen tokens, float32 (tokens, d_model)."""
        return self.hidden[self.chosen].float()


class CleanPass:
    """The unchanged LM's pass over held-out windows, a batch at a time; every SAE of a layer is compared with it.

    If all batches together fit into KEPT_BYTES (for few windows or a small vocabulary), they are remembered: the next
    SAE then needs one forward pass per batch instead of two.

    Args:
        positions: which tokens are replaced and measured.
    """

    KEPT_BYTES = 1 << 28

    def __init__(self, lm: LM, layer: int, windows: Windows, batch_size: int, positions: Positions = ALL):
        self.lm, self.layer, self.windows, self.batch_size, self.positions = lm, layer, windows, batch_size, positions
        self._kept: dict[int, CleanBatch] = {}

    def __iter__(self) -> Iterator[CleanBatch]:
        """Yield all batches, in the order of the windows."""
        for start in range(0, len(self.windows.tokens), self.batch_size):
            yield self._kept.get(start) or self._made(start)

    def _made(self, start: int) -> CleanBatch:
        seen: list[torch.Tensor] = []
        part = slice(start, start + self.batch_size)
        tokens = torch.from_numpy(self.windows.tokens[part]).to(self.lm.device)
        real = torch.from_numpy(self.windows.mask()[part]).to(self.lm.device)
        logits = self.lm.logits(tokens, self.layer, lambda hidden: seen.append(hidden.clone()))
        batch = CleanBatch(tokens, real, real[:, 1:], *self.positions.among(tokens, real, seen[0]), seen[0], logits)
        large = batch.hidden.nbytes + batch.logits.nbytes
        if large * len(self.windows.tokens) <= self.KEPT_BYTES * len(tokens):
            self._kept[start] = batch
        return batch
