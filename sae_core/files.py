"""Files that appear whole: they are written under a temporary name and renamed when they are complete."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` when the block ends without an error.

    The path names machine and process, because `path` may lie on a file system that several machines share. The file
    gets the mode that the umask gives new files, whatever mode its writer gives it: safetensors lets only the owner
    read what it writes.
    """
    host = socket.gethostname().split(".")[0]
    temporary = path.with_name(f".{path.name}.{host}-{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
