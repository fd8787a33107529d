"""The unchanged LM on held-out windows, which ablations and SAEs are compared with, from the hook point up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from sweep.corpus.windows import Windows
from sweep.lm.losses import cross_entropies, log_normalisers
from sweep.lm.model import LM
from sweep.measures.positions import ALL, Positions

Keep = Callable[[int, Callable[[], Tensor]], Tensor]

_CPU = torch.device("cpu")
LOGIT_BYTES = 1 << 28  # the most bytes of the logits of the windows that go through the LM together


def batch_size_within(windows: int, length: int, vocabulary: int | None, width: int) -> int:
    """Return how many windows go through the LM together when it is measured: at most `windows`.

    Args:
        length: tokens per window.
        vocabulary: token ids that the LM gives logits for; None where that is not known.
        width: bytes of a logit.
    """
    return max(1, min(windows, LOGIT_BYTES // (length * (vocabulary or 1) * width)))


class Clean:
    """What the unchanged LM makes of a batch: its logits, and for each predicted token what others are compared with.

    Attributes:
        logits: (windows, length, vocabulary).
        normalisers: log sum exp of the logits that predict a token, float32 (windows, length - 1).
        losses: the cross-entropy of each next token in nats, float32 (windows, length - 1).
    """

    def __init__(self, logits: Tensor, tokens: Tensor):
        self.logits, self.normalisers = logits, log_normalisers(logits)
        self.losses = cross_entropies(logits, tokens, self.normalisers)


class CleanBatch:
    """A batch of held-out windows.

    Attributes:
        tokens: token ids (windows, length).
        real: bool (windows, length), False at padding.
        predicted: bool (windows, length - 1), True at t if token t + 1 is real.
        hidden: the unchanged LM's activations at the hook point (windows, length, d_model).
        chosen: bool (windows, length): the tokens that are replaced and measured.
        not_ordinary: how many real tokens are not ordinary; None where that is not known.
    """

    def __init__(self, owner: CleanPass, part: slice):
        self.tokens = torch.from_numpy(owner.windows.tokens[part]).to(owner.device)
        self.real = torch.from_numpy(owner.windows.mask()[part]).to(owner.device)
        self.predicted = self.real[:, 1:]
        self.hidden = owner.hidden(part)
        self.chosen, self.not_ordinary = owner.positions.among(self.tokens, self.real, self.hidden)
        self._owner, self._start = owner, part.start

    @property
    def h(self) -> Tensor:
        """The activations of the chosen tokens, float32 (tokens, d_model)."""
        return self.hidden[self.chosen].float()

    @cached_property
    def clean(self) -> Clean:
        """What the unchanged LM makes of the windows; it is made when somebody asks for it."""
        return Clean(self._owner.clean_logits(self._start, self), self.tokens)

    def logits_with(self, hidden: Tensor) -> Tensor:
        """Return the logits (windows, length, vocabulary) with `hidden` at the hook point."""
        return self._owner.lm.logits_from(self.tokens, self._owner.layer, hidden)

    def replaced(self, values: Tensor) -> Tensor:
        """Return the activations with the chosen tokens' replaced by `values` (tokens, d_model) or (d_model,)."""
        hidden = self.hidden.clone()
        hidden[self.chosen] = values.to(hidden.dtype)
        return hidden


class CleanPass:
    """The held-out windows, a batch at a time, with what the unchanged LM makes of them.

    If what it makes of all of them fits into KEPT_BYTES (for few windows or a small vocabulary), it is remembered, and
    the next SAE need not wait for it. Otherwise its logits may be kept on disk.

    Args:
        lm: returns the LM; called only when logits are asked for.
        layer: the hook point is the residual stream after this block.
        hidden: returns the activations at the hook point of a part of the windows (windows, length, d_model).
        batch_size: windows that go through the LM together.
        positions: which tokens are replaced and measured.
        device: where all of it is computed.
        keep: (the batch's number, a function that makes its clean logits) -> the logits, made or read from where they
            are kept; None to make them whenever they are asked for.
    """

    KEPT_BYTES = 1 << 28

    def __init__(
        self,
        lm: Callable[[], LM],
        layer: int,
        windows: Windows,
        hidden: Callable[[slice], Tensor],
        batch_size: int,
        positions: Positions = ALL,
        device: torch.device = _CPU,
        keep: Keep | None = None,
    ):
        self._lm, self._hidden, self._keep, self.device = lm, hidden, keep, device
        self.layer, self.windows, self.batch_size, self.positions = layer, windows, batch_size, positions
        self._kept: dict[int, CleanBatch] = {}

    @property
    def lm(self) -> LM:
        """The LM."""
        return self._lm()

    def hidden(self, part: slice) -> Tensor:
        """Return the activations at the hook point of a part of the windows, on the device."""
        return self._hidden(part).to(self.device)

    def clean_logits(self, start: int, batch: CleanBatch) -> Tensor:
        """Return the unchanged LM's logits on the batch that starts at window `start`."""
        if self._keep is None:
            return batch.logits_with(batch.hidden)
        return self._keep(start // self.batch_size, lambda: batch.logits_with(batch.hidden)).to(self.device)

    def batch(self, part: slice) -> CleanBatch:
        """Return some windows, of which nothing is remembered."""
        return CleanBatch(self, part)

    def parts(self) -> Iterator[slice]:
        """Yield which windows each batch holds."""
        for start in range(0, len(self.windows.tokens), self.batch_size):
            yield slice(start, min(start + self.batch_size, len(self.windows.tokens)))

    def __iter__(self) -> Iterator[CleanBatch]:
        """Yield all batches, in the order of the windows."""
        for part in self.parts():
            start = part.start
            batch = self._kept.pop(start, None) or CleanBatch(self, part)
            yield batch
            if "clean" in vars(batch) and self._fits(batch):
                self._kept[start] = batch

    def _fits(self, batch: CleanBatch) -> bool:
        """Tell whether all batches together may be kept if each is as large as this one."""
        large = batch.hidden.nbytes + batch.clean.logits.nbytes
        return large * len(self.windows.tokens) <= self.KEPT_BYTES * len(batch.tokens)


def hidden_of(lm: LM, layer: int, windows: Windows, batch_size: int) -> Callable[[slice], Tensor]:
    """Return a function that gives the activations of a part of the windows, which one LM pass has captured."""
    tokens = torch.from_numpy(windows.tokens)
    found = torch.cat([lm.capture(part, [layer])[layer].cpu() for part in tokens.split(batch_size)])
    return lambda part: found[part]
