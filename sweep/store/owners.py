"""Who works on a run: the holder of its folder's lock, as its `progress.json` names it. No torch."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from sweep.store.records import LOCK, PROGRESS


class Holder(NamedTuple):
    """What the holder has said of itself; None where it has not come to that."""

    stage: str | None
    host: str | None
    pid: int | None
    since: Any  # as `progress.json` has it


def running(folder: Path) -> Holder | None:
    """Who holds the lock of a run's folder, or None where nobody does; waits for nothing and writes no file.

    The kernel drops a lock with its holder, so that what a killed one left in `progress.json` is not believed.
    """
    if not held(folder / LOCK):
        return None
    try:
        said = json.loads((folder / PROGRESS).read_text())
    except (OSError, ValueError):  # not there yet, or no more
        said = {}
    said = said if isinstance(said, dict) else {}
    return Holder(said.get("stage"), said.get("host"), said.get("pid"), said.get("since"))


def held(lock: Path) -> bool:
    """Whether somebody has a `filelock.FileLock` on the file.

    Asked with a shared lock and not by taking a FileLock, which would make the file; two who ask at once don't take
    each other for the holder.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:  # never been locked, or not ours to read
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held; or no flock on this file system, where a FileLock is the file itself
        return True
    finally:
        os.close(descriptor)
    return False
