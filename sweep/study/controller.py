"""Who owns a trial: each controller holds a lock file for its life, and its trials bear the lock's name.

The kernel drops the lock with its holder, so a trial whose owner's lock can be taken is a dead controller's. Locks live
in the run store; a trial of a controller that works on another run store is neither dead nor alive to us.
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

from sweep.store.owners import held

FOLDER = "controllers"


class Owner(Enum):
    US = "us"
    LIVE = "live"
    DEAD = "dead"
    UNKNOWN = "unknown"  # works on another run store


class Controller(NamedTuple):
    runs_dir: Path
    token: str
    store: str

    @property
    def marks(self) -> dict[str, Any]:
        """What its trials bear."""
        return {"owner": self.token, "store": self.store, "host": socket.gethostname(), "pid": os.getpid()}

    def owner(self, marks: Mapping[str, Any]) -> Owner:
        """Whose a trial with such marks is. One without any is unknown: no controller of ours leaves one so."""
        token = marks.get("owner")
        if token == self.token:
            return Owner.US
        if token is None or marks.get("store") != self.store:
            return Owner.UNKNOWN
        return Owner.LIVE if held(self.runs_dir / FOLDER / f"{token}.lock") else Owner.DEAD


@contextmanager
def controller(runs_dir: Path) -> Iterator[Controller]:
    """A controller of this process, alive within."""
    folder = runs_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:12]
    path = folder / f"{token}.lock"
    with FileLock(path):
        try:
            yield Controller(runs_dir, token, _store_id(folder))
        finally:
            path.unlink(missing_ok=True)  # no file, no owner


def _store_id(folder: Path) -> str:
    """What tells this run store from others; made by whoever comes first."""
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
