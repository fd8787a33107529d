"""What a run is doing, written to a small file in its folder: the terminal's lines and the status command read it."""

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

_INTERVAL = 0.5  # seconds


class RunProgress:
    """Writes `progress.json` of one run, at most twice a second."""

    def __init__(self, folder: Path):
        self._file = folder / PROGRESS
        self._last = 0.0
        self._stage = ""
        self._owner = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}

    def __call__(self, stage: str, done: int = 0, total: int = 0, note: str = "") -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._last < _INTERVAL:
            return
        self._stage, self._last = stage, now
        state = {"stage": stage, "done": done, "total": total, "note": note, **self._owner}
        with suppress(OSError), replaced(self._file) as temporary:  # a full disk costs the display, not the run
            temporary.write_text(json.dumps(state))

    def close(self) -> None:
        self._file.unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
