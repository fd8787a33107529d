"""Tell who owns a trial, and whether that controller is alive.

A controller is the process of one search. It holds a lock file as long as it lives, and its trials bear the lock's
name. The operating system releases the lock when the process ends, so a trial belongs to a dead controller if its
owner's lock is free. Locks are kept in the run store, so nobody can tell from here whether a controller that works on
another run store is alive.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from sweep.store.lock_holders import is_locked

FOLDER = "controllers"


class Owner(Enum):
    """The kinds of owner that a trial can have, as one controller sees them."""

    US = "us"
    LIVE = "live"
    DEAD = "dead"
    UNKNOWN = "unknown"  # a controller of another run store, or another program


class Controller(NamedTuple):
    """The process of one search, as its trials name it."""

    runs_dir: Path
    token: str  # the name of its lock
    store: str  # the run store's id

    @property
    def marks(self) -> dict[str, Any]:
        """The user attributes that its trials bear."""
        return {"owner": self.token, "store": self.store, "host": socket.gethostname(), "pid": os.getpid()}

    def owner(self, marks: Mapping[str, Any]) -> Owner:
        """Return the kind of owner of a trial that has the user attributes `marks`.

        The owner of a trial that names none is unknown: our own controllers put their name on every trial.
        """
        token = marks.get("owner")
        if token == self.token:
            return Owner.US
        if token is None or marks.get("store") != self.store:
            return Owner.UNKNOWN
        return Owner.LIVE if is_locked(self.runs_dir / FOLDER / f"{token}.lock") else Owner.DEAD


@contextmanager
def controller(runs_dir: Path) -> Iterator[Controller]:
    """Make this process a controller, which is alive as long as the context lasts."""
    folder = runs_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:12]
    path = folder / f"{token}.lock"
    with FileLock(path):
        try:
            yield Controller(runs_dir, token, _store_id(folder))
        finally:
            path.unlink(missing_ok=True)  # a controller whose lock file is gone counts as dead


def _store_id(folder: Path) -> str:
    """Return the id that tells this run store from others; the first controller makes it."""
    path = folder / "store-id"
    if not path.exists():
        fresh = folder / f".store-id.{uuid.uuid4().hex}"
        fresh.write_text(uuid.uuid4().hex)
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text()
