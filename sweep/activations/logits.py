"""The unchanged LM's logits on held-out windows, kept on disk where they fit a budget.

They serve every SAE of every layer. They are kept in the dtype in which the LM computes them, so that a figure does not
depend on whether they were kept. Each batch of windows is a file of its own, which appears by rename.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sweep.store.files import replaced

_SECONDS, _CHECKSUM = "seconds", "crc32"


class KeptLogits:
    """The logits of one LM on one set of windows.

    Args:
        folder: the folder of the files; it is made when the first batch is kept.
    """

    def __init__(self, folder: Path):
        self._folder, self._slow = folder, False

    def of(self, batch: int, make: Callable[[], Tensor]) -> Tensor:
        """Return the logits of a batch of windows, on the CPU if they were read from disk.

        If reading takes longer than making did, the following batches are made.

        Args:
            batch: the batch's number.
            make: computes them.
        """
        file = self._folder / f"{batch:06d}.safetensors"
        if not self._slow:
            found = self._read(file)
            if found is not None:
                return found
        started = time.perf_counter()
        made = make()
        made_in = time.perf_counter() - started
        if not self._slow:
            self._write(file, made, made_in)
        return made

    def _read(self, file: Path) -> Tensor | None:
        """Return the logits in a file, or None if there is none or it is damaged."""
        started = time.perf_counter()
        try:
            with safe_open(file, "pt") as kept:
                about, logits = kept.metadata(), kept.get_tensor("logits")
                whole = about[_CHECKSUM] == _checksum(logits)
                made_in = float(about[_SECONDS])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None
        self._slow = time.perf_counter() - started > made_in
        return logits if whole else None

    def _write(self, file: Path, logits: Tensor, seconds: float) -> None:
        with suppress(OSError, SafetensorError):  # a full disk only costs the memory: they are made again
            self._folder.mkdir(parents=True, exist_ok=True)
            with replaced(file) as temporary:
                kept = logits.cpu().contiguous()
                save_file({"logits": kept}, temporary, {_SECONDS: str(seconds), _CHECKSUM: _checksum(kept)})


def _checksum(values: Tensor) -> str:
    return f"{zlib.crc32(values.flatten().view(torch.uint8).numpy().data):08x}"
