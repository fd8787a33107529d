"""An LM pass cut into parts, each a file: a killed pass goes on where it was, and several processes make one together.

Windows go through the LM in the order of their lengths, so that a batch holds little padding, and each batch is cut to
its longest window. A part is a few batches. Its file appears by rename once it is whole, and a file lock says that
somebody is at it. Every part is computed in the same way whoever does it, and what is made of the parts depends on
nothing but them.

The parts of an entry lie in a folder beside it, which whoever makes the entry of them removes.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sweep.activations.cache import CacheError
from sweep.activations.source import Source
from sweep.corpus.windows import Windows
from sweep.lm.ordinary import norms_of
from sweep.store.files import replaced

PART_TOKENS = 4096  # tokens of a part, if a batch does not have more
_POLL = 0.2  # seconds between looks at parts that others have in hand

Progress = Callable[[int, int], None]  # called with (tokens done, tokens in all)


class Wanted(NamedTuple):
    """What an LM pass is to capture for one entry of the cache: a layer's activations, and how they are stored."""

    entry: str  # the name of the entry's folder
    layer: int
    dtype: torch.dtype | None  # how rows are stored; None: as the LM computes them


class Captured(NamedTuple):
    """The activations of one part, one row for each real token."""

    rows: torch.Tensor  # (tokens, d_in), as stored
    norms: torch.Tensor  # float32 (tokens,), of the activations as the LM computes them
    fits: torch.Tensor  # bool (tokens,), whether all values of a row are finite as they are stored


class DamagedPartError(CacheError):
    """A part cannot be read; it has been removed and can be made again."""


class Pass:
    """One pass of an LM over windows, for one entry or several of different layers.

    Args:
        cache_dir: the folder of the entries.
        batch_size: windows per forward pass of the LM.
    """

    def __init__(self, cache_dir: Path, windows: Windows, batch_size: int):
        self._cache_dir, self._windows, self._batch_size = cache_dir, windows, batch_size
        self._starts = np.cumsum(windows.lengths) - windows.lengths
        order = length_order(windows.lengths, np.arange(len(windows.lengths)))
        a_part = max(1, PART_TOKENS // (batch_size * windows.tokens.shape[1])) * batch_size
        self._parts = [order[first : first + a_part] for first in range(0, len(order), a_part)]

    def make(
        self, wanted: Sequence[Wanted], lm: Callable[[], Source], on_progress: Progress, on_wait: Callable[[], None]
    ) -> None:
        """Make all parts that are not there, together with whoever else is at them.

        Args:
            lm: returns the LM; called only if there is a part to make.
            on_progress: called after each part, whoever made it.
            on_wait: called once before waiting for parts that others have in hand.

        Raises:
            CacheError: an activation is not finite. What is there of that entry's parts is removed.
            OSError: a part cannot be written.
        """
        left, waited, done = list(range(len(self._parts))), False, 0
        while left:
            busy: list[int] = []
            for part in left:
                with self._claimed(wanted, part) as lacking:
                    if lacking is None:
                        busy.append(part)
                        continue
                    if lacking:
                        self._make_part(lacking, part, lm())
                done += int(self._windows.lengths[self._parts[part]].sum())
                on_progress(done, self._windows.n_tokens)
            if len(busy) == len(left):
                if not waited:
                    on_wait()
                    waited = True
                time.sleep(_POLL)
            left = busy

    def read(self, wanted: Wanted) -> Iterator[tuple[np.ndarray, Captured]]:
        """Yield each part's (places of its tokens in the order of the text (tokens,), activations).

        Raises:
            DamagedPartError: a part is not there or cannot be read.
        """
        for part, windows in enumerate(self._parts):
            file = self._file(wanted, part)
            try:
                captured = Captured(**load_file(file))
            except (OSError, SafetensorError, TypeError):
                file.unlink(missing_ok=True)
                raise DamagedPartError(f"activation cache: {file} cannot be read") from None
            yield self._places(windows), captured

    def remove(self, wanted: Wanted) -> None:
        """Remove what is there of an entry's parts."""
        shutil.rmtree(self._folder(wanted), ignore_errors=True)

    def bytes_there(self, wanted: Wanted) -> int:
        """Return the bytes of the parts that are there."""
        return sum(file.stat().st_size for file in self._folder(wanted).glob("*.safetensors"))

    @contextmanager
    def _claimed(self, wanted: Sequence[Wanted], part: int) -> Iterator[list[Wanted] | None]:
        """Hold a part, and yield which entries lack it; yield None where another process holds it."""
        lacking = self._lacking(wanted, part)
        if not lacking:
            yield lacking
            return
        with ExitStack() as locks:
            # All processes take the locks in the same order; none waits, so that none can wait for ever.
            for one in sorted(lacking):
                self._folder(one).mkdir(parents=True, exist_ok=True)
                try:
                    locks.enter_context(FileLock(self._folder(one) / f"{part:06d}.lock").acquire(timeout=0))
                except TimeoutError:
                    yield None
                    return
            yield self._lacking(lacking, part)

    def _lacking(self, wanted: Sequence[Wanted], part: int) -> list[Wanted]:
        """Return the entries that are not there and lack this part."""
        return [w for w in wanted if not self._file(w, part).exists() and not (self._cache_dir / w.entry).is_dir()]

    def _make_part(self, wanted: Sequence[Wanted], part: int, lm: Source) -> None:
        found: dict[int, list[torch.Tensor]] = {one.layer: [] for one in wanted}
        windows = self._parts[part]
        for first in range(0, len(windows), self._batch_size):
            batch = windows[first : first + self._batch_size]
            for layer, rows in real_rows(lm, self._windows, batch, list(found)).items():
                found[layer].append(rows)
        for one in wanted:
            self._write(one, part, torch.cat(found[one.layer]))

    def _write(self, wanted: Wanted, part: int, hidden: torch.Tensor) -> None:
        if not bool(torch.isfinite(hidden).all()):
            self.remove(wanted)
            raise CacheError(f"layer={wanted.layer}: the LM's activations hold a NaN or an infinity")
        rows = hidden.to(wanted.dtype or hidden.dtype)
        captured = Captured(rows, norms_of(hidden), torch.isfinite(rows).all(dim=1))
        self._folder(wanted).mkdir(parents=True, exist_ok=True)
        with replaced(self._file(wanted, part)) as temporary:
            save_file(captured._asdict(), temporary)

    def _places(self, windows: np.ndarray) -> np.ndarray:
        """Return the places of the windows' real tokens in the order of the text."""
        starts, lengths = self._starts[windows].tolist(), self._windows.lengths[windows].tolist()
        return np.concatenate([np.arange(s, s + length) for s, length in zip(starts, lengths, strict=True)])

    def _folder(self, wanted: Wanted) -> Path:
        stored = str(wanted.dtype).removeprefix("torch.")
        return self._cache_dir / f"{wanted.entry}.parts-{self._batch_size}-{stored}"

    def _file(self, wanted: Wanted, part: int) -> Path:
        return self._folder(wanted) / f"{part:06d}.safetensors"


def length_order(lengths: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return the windows in the order of their lengths, the longest first."""
    return windows[np.argsort(-lengths[windows], kind="stable")]


def real_rows(lm: Source, windows: Windows, batch: np.ndarray, layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Return the activations of the real tokens of a batch of windows, on the CPU: {layer: (tokens, d_in)}.

    The LM computes no further than the batch's longest window reaches.
    """
    lengths = torch.from_numpy(windows.lengths[batch])
    longest = int(lengths.max())
    real = torch.arange(longest) < lengths[:, None]
    hidden = lm.capture(torch.from_numpy(windows.tokens[batch, :longest]), layers)
    return {layer: hidden[layer].cpu()[real] for layer in layers}
