"""Files that appear whole or not at all. Standard library only."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HOST = socket.gethostname().split(".")[0]


def mine(name: str) -> str:
    """A temporary name for `name` that no other process uses, on a shared file system either."""
    return f".{name}.{_HOST}-{os.getpid()}"


def remove_left(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`, where nobody but the caller writes."""
    for left in folder.glob(".*"):
        if left.is_file():
            left.unlink(missing_ok=True)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A name to write to; it becomes `path` at the end, and where writing fails it goes and `path` stays as it was."""
    temporary = path.with_name(mine(path.name))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, on disk before it appears as `path`.

    Raises:
        ValueError: for NaN and infinities.
        OSError: naming `path`; it is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary, open(temporary, "w") as stream:
            json.dump(value, stream, indent=1, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:  # a write that finds the disk full doesn't say where
        raise OSError(error.errno, error.strerror, str(path)) from None
