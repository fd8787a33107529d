"""Find the process that works on a run: it holds the lock of the run's folder. No torch."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from sweep.store.records import LOCK, PROGRESS


class Holder(NamedTuple):
    """The process that works on a run, as its `progress.json` describes it; None for what is not written there yet."""

    stage: str | None  # what it is doing: "training", for example
    host: str | None
    pid: int | None
    since: Any  # ISO time at which it began, as `progress.json` has it


def find_holder(folder: Path) -> Holder | None:
    """Return who holds the lock of a run's folder, or None if nobody does; wait for nothing and write no file.

    The operating system releases a lock when its holder ends. So a `progress.json` that a killed process left is not
    believed: nobody holds the lock any more.
    """
    if not is_locked(folder / LOCK):
        return None
    try:
        written = json.loads((folder / PROGRESS).read_text())
    except (OSError, ValueError):  # not written yet, or removed already
        written = {}
    written = written if isinstance(written, dict) else {}
    return Holder(written.get("stage"), written.get("host"), written.get("pid"), written.get("since"))


def is_locked(lock: Path) -> bool:
    """Return whether some process holds a `filelock.FileLock` on the file `lock`.

    The question is asked with a shared lock. Taking a FileLock instead would create the file; and two processes that
    ask at once with shared locks do not take each other for the holder.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:  # nobody has ever locked it, or this user may not read it
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held; or the file system has no flock, and then the file's existence is the FileLock
        return True
    finally:
        os.close(descriptor)
    return False
