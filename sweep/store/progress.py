"""The small file in a run's folder that says what the run is doing.

The lines on the terminal and `python -m sweep.status` are made from it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from sweep.store.files import replaced
from sweep.store.records import PROGRESS

_INTERVAL = 0.5  # seconds between two writes within one stage, at least


class RunProgress:
    """Writes the `progress.json` of one run: at each new stage, and within a stage at most twice a second."""

    def __init__(self, folder: Path):
        self._file = folder / PROGRESS
        self._last = 0.0
        self._stage = ""
        self._holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}

    def __call__(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        """Say that `done` of `total` parts of a stage are done; `note` is a few words more, say the present loss."""
        now = time.monotonic()
        if stage == self._stage and now - self._last < _INTERVAL:
            return
        self._stage, self._last = stage, now
        state = {"stage": stage, "done": done, "total": total, "note": note, **self._holder}
        with suppress(OSError), replaced(self._file) as temporary:  # a full disk costs the display, not the run
            temporary.write_text(json.dumps(state))

    def close(self) -> None:
        """Remove the file: nobody works on the run any more."""
        self._file.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
