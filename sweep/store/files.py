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


def temporary_name(name: str) -> str:
    """Return a temporary name for the file `name` that no other process uses, not even on a shared file system."""
    return f".{name}.{_HOST}-{os.getpid()}"


def remove_left(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`, where nobody but the caller may be writing."""
    for left in folder.glob(".*"):
        if left.is_file():
            left.unlink(missing_ok=True)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` at the end.

    If the writing fails, the temporary file is removed and `path` stays as it was.
    """
    temporary = path.with_name(temporary_name(path.name))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, which appears only once its content is on disk.

    Raises:
        ValueError: `value` contains NaN or an infinity.
        OSError: the file cannot be written; the error names `path`, which stays as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as temporary, open(temporary, "w") as stream:
            json.dump(value, stream, indent=1, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:  # the error of a full disk does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from None
