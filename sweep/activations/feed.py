"""Activations straight from the LM, for pools larger than the disk: one LM pass feeds every SAE that trains at a time.

Windows go through the LM in an order that the seed draws, a buffer at a time. A buffer's tokens are shuffled and used
up batch by batch, then the next buffer is filled. So a batch mixes the windows of its buffer only: the larger the
buffer, the more alike the batches. Where a training is longer than the text, the pass begins again, and the tokens of
each buffer come in another order.

Which windows a buffer holds follows from their lengths alone. So the batch of any step can be made without those before
it, at the cost of filling one buffer: a training that was killed goes on there.

What a pool's manifest says of all its rows (mean, norms, variance) is taken here from the first buffer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sweep.activations.cache import FLOAT16, CacheError
from sweep.activations.norms import Norms, judged, norms_from
from sweep.activations.parts import length_order, real_rows
from sweep.activations.source import Source
from sweep.corpus.windows import Windows
from sweep.lm.ordinary import OutlierRule, norms_of
from sweep.store.files import write_json


class Buffer(NamedTuple):
    """A part of the pass."""

    windows: np.ndarray  # which windows it holds
    first_step: int  # within a pass
    steps: int


class Statistics(NamedTuple):
    """What is known of the rows at one layer, from the first buffer."""

    rows: int  # how many of its tokens are kept
    mean: list[float]  # (d_in,)
    mean_norm: float  # mean of ||h||
    total_variance: float  # mean of ||h - mean||^2
    norms: Norms | None  # None where all tokens are ordinary by declaration


class FedPool:
    """What is known of the activations that a feed gives at one layer, by the names of `sweep.activations.cache.Pool`.

    Attributes:
        feed, layer: where they come from.
        tokens: rows of the first buffer, of which the statistics are.
        d_in, dtype, norms, mean, mean_norm, total_variance: as for a pool.
    """

    def __init__(self, feed: Feed, layer: int):
        found = feed.statistics(layer)
        self.feed, self.layer = feed, layer
        self.tokens, self.d_in, self.dtype, self.norms = found.rows, len(found.mean), FLOAT16, found.norms
        self.mean = torch.tensor(found.mean, dtype=torch.float32)
        self.mean_norm, self.total_variance = found.mean_norm, found.total_variance


class Feed:
    """One LM pass after another, whose batches several trainings use.

    Args:
        lm: returns the LM; called when a buffer is to be filled.
        windows: the training text.
        layers: the hook points that are captured together.
        buffer: tokens that are captured, shuffled and used up at a time.
        rows: rows of a batch.
        together: windows per forward pass of the LM.
        seed: draws the order of windows, and of the tokens in a buffer.
        rule: which tokens are ordinary; None where all are.
        leaves_out: leave out tokens that are not ordinary.
        memo: the folder that remembers the statistics of each layer, as {layer}.json.

    Attributes:
        on_progress: called with (tokens done, tokens of the buffer) while a buffer is filled.
        buffers: the parts of a pass.
    """

    def __init__(
        self,
        lm: Callable[[], Source],
        windows: Windows,
        layers: Sequence[int],
        buffer: int,
        rows: int,
        together: int,
        seed: int,
        rule: OutlierRule | None,
        leaves_out: bool,
        memo: Path,
    ):
        self._lm, self._windows, self._layers, self._rows = lm, windows, tuple(layers), rows
        self._together, self._seed, self._rule, self._leaves_out = together, seed, rule, leaves_out
        self._memo = memo
        self.on_progress: Callable[[int, int], None] = lambda done, total: None
        self.buffers = buffers_of(windows.lengths, buffer, rows, seed)
        self._held: tuple[tuple[int, int], dict[int, Tensor]] | None = None  # (pass, buffer), {layer: shuffled rows}
        self._statistics: dict[int, Statistics] = {}

    @property
    def steps_a_pass(self) -> int:
        """The number of batches that one pass of the LM gives."""
        return self.buffers[-1].first_step + self.buffers[-1].steps

    def batch(self, layer: int, step: int) -> Tensor:
        """Return the batch of `step` at a layer (rows, d_in), in float16, or bfloat16 where a value needs its range."""
        nth_pass, number, within = self._place(step)
        held, first = self._filled(nth_pass, number)[layer], within * self._rows
        return held[torch.arange(first, first + self._rows) % len(held)]

    def all_rows(self, layer: int) -> Iterator[Tensor]:
        """Yield all rows at a layer, a buffer at a time: one pass of the LM."""
        for number in range(len(self.buffers)):
            yield self._filled(0, number)[layer]

    def sample(self, layer: int, step: int, bits: np.random.PCG64, count: int) -> Tensor:
        """Return `count` rows (count, d_in) that `bits` draws with replacement from the buffer that `step` reads."""
        held = self._filled(*self._place(step)[:2])[layer]
        return held[torch.from_numpy((bits.random_raw(count) % np.uint64(len(held))).astype(np.int64))]

    def statistics(self, layer: int) -> Statistics:
        """Return what is known of the rows at a layer; the first buffer is filled for it if nobody has done so."""
        if layer not in self._statistics:
            with suppress(OSError, ValueError, KeyError, TypeError):
                kept = json.loads((self._memo / f"{layer}.json").read_text())
                self._statistics[layer] = Statistics(**{**kept, "norms": norms_from(kept["norms"])})
        if layer not in self._statistics:
            self._held = None
            self._filled(0, 0)
        return self._statistics[layer]

    def _place(self, step: int) -> tuple[int, int, int]:
        """Return (which pass, which buffer of it, the step within the buffer)."""
        nth_pass, within = divmod(step, self.steps_a_pass)
        number = next(i for i, b in enumerate(self.buffers) if within < b.first_step + b.steps)
        return nth_pass, number, within - self.buffers[number].first_step

    def _filled(self, nth_pass: int, number: int) -> dict[int, Tensor]:
        """Return the shuffled rows of a buffer at each layer."""
        place = nth_pass, number
        if self._held is not None and self._held[0] == place:
            return self._held[1]
        if place != (0, 0):
            for layer in self._layers:
                self.statistics(layer)  # which is of the first buffer
        self._held = None  # so that no two buffers are in memory
        windows = self.buffers[number].windows
        captured, tokens = self._captured(windows), self._tokens(windows)
        draws = np.random.PCG64([self._seed, nth_pass, number])
        order = np.argsort(draws.random_raw(len(tokens)), kind="stable")
        rows = {layer: _in_order(*self._kept(layer, tokens, captured.pop(layer)), order) for layer in self._layers}
        self._held = place, rows
        return rows

    def _captured(self, windows: np.ndarray) -> dict[int, Tensor]:
        """Return the activations of the windows' real tokens at each layer (tokens, d_in), in the LM's dtype."""
        found: dict[int, list[Tensor]] = {layer: [] for layer in self._layers}
        total = int(self._windows.lengths[windows].sum())
        done = 0
        for first in range(0, len(windows), self._together):
            batch = windows[first : first + self._together]
            for layer, rows in real_rows(self._lm(), self._windows, batch, self._layers).items():
                found[layer].append(rows)
            done += int(self._windows.lengths[batch].sum())
            self.on_progress(done, total)
        return {layer: torch.cat(rows) for layer, rows in found.items()}

    def _tokens(self, windows: np.ndarray) -> Tensor:
        """Return the ids of the windows' real tokens, in the order of `_captured`."""
        return torch.from_numpy(np.concatenate([self._windows.tokens[w, : self._windows.lengths[w]] for w in windows]))

    def _kept(self, layer: int, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return (which tokens are kept, bool (tokens,); their rows as stored)."""
        if not bool(torch.isfinite(hidden).all()):
            raise CacheError(f"layer={layer}: the LM's activations hold a NaN or an infinity")
        lengths = norms_of(hidden)
        known = self._statistics.get(layer)
        norms = known.norms if known else self._judged(layer, tokens, lengths)
        keep = torch.ones(len(tokens), dtype=torch.bool)
        if self._leaves_out and norms is not None:
            keep = norms.ordinary.among(tokens, lengths)
        if not bool(keep.any()):
            raise CacheError(f"layer={layer}: no token of a buffer of {len(tokens)} is ordinary")
        rows = hidden[keep].half()
        if not bool(torch.isfinite(rows).all()):
            rows = hidden[keep].bfloat16()
        if known is None:
            self._statistics[layer] = _statistics(rows, norms)
            with suppress(OSError):  # a full disk only costs the memory: the first buffer is filled again
                found = self._statistics[layer]._asdict()
                found["norms"] = None if norms is None else norms._asdict()
                write_json(self._memo / f"{layer}.json", found)
        return keep, rows

    def _judged(self, layer: int, tokens: Tensor, lengths: Tensor) -> Norms | None:
        if self._rule is None:
            return None
        try:
            return judged(self._rule, tokens, lengths)
        except ValueError as error:
            raise CacheError(f"layer={layer}: {error}") from None


def buffers_of(lengths: np.ndarray, buffer: int, rows: int, seed: int) -> list[Buffer]:
    """Cut the windows, in an order that the seed draws, into buffers of at least `buffer` tokens.

    The windows of each are in the order of their lengths. A rest of less than half a buffer joins the last one.

    Args:
        lengths: int (windows,), the windows' lengths.
        rows: rows of a batch.
    """
    order = np.argsort(np.random.PCG64(seed).random_raw(len(lengths)), kind="stable")
    before = np.cumsum(lengths[order]) - lengths[order]
    count = max(1, round(lengths.sum() / buffer))
    number = np.minimum(before // buffer, count - 1)
    found: list[Buffer] = []
    step = 0
    for i in range(count):
        windows = length_order(lengths, order[number == i])
        steps = max(1, int(lengths[windows].sum()) // rows)
        found.append(Buffer(windows, step, steps))
        step += steps
    return found


def _in_order(keep: Tensor, rows: Tensor, order: np.ndarray) -> Tensor:
    """Return the kept rows in the order `order` of all tokens."""
    place = torch.cumsum(keep, 0) - 1
    shuffled = torch.from_numpy(order)
    return rows[place[shuffled[keep[shuffled]]]]


def _statistics(rows: Tensor, norms: Norms | None) -> Statistics:
    exact = rows.double()
    mean = exact.mean(0)
    variance = float((exact - mean).square().sum(1).mean())
    return Statistics(len(rows), mean.tolist(), float(exact.norm(dim=1).mean()), variance, norms)
