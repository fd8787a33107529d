"""Run `python -m sweep` and have something happen to it at one exact point.

    python -m tests.sweep.killed WHERE N WHAT ...      ... are the arguments of `python -m sweep`

The N-th call of WHERE first does WHAT; everything else is the real thing.

- WHERE: `module:name` or `module:Class.name` of a function, or `replace:FILE`: an `os.replace` that makes FILE appear
  (what is renamed is on disk by then).
- WHAT: `kill`, SIGKILL to this process; or `fill=FOLDER`, which leaves no room on that disk.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from functools import wraps
from pathlib import Path

BALLAST = "ballast"  # the file that fills a disk


def fill(folder: Path) -> None:
    """Leave no byte on the disk of `folder`."""
    with open(folder / BALLAST, "ab", buffering=0) as stream:
        for size in (65536, 4096, 1):
            try:
                while stream.write(b"\0" * size):
                    pass
            except OSError:
                continue


def happen(what: str) -> None:
    """Kill this process or fill a disk, as WHAT asks."""
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    fill(Path(what.removeprefix("fill=")))


def watch(where: str, count: int, what: str) -> None:
    """Replace the function at `where` by one that does `what` before its `count`-th call."""
    module, _, name = where.partition(":")
    only = None
    if module == "replace":
        module, name, only = "os", "replace", name
    owner = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real, calls = getattr(owner, last), iter(range(1, sys.maxsize))

    @wraps(real)
    def watched(*args, **kwargs):
        if (only is None or Path(args[1]).name == only) and next(calls) == count:
            happen(what)
        return real(*args, **kwargs)

    setattr(owner, last, watched)


if __name__ == "__main__":
    watched_for = sys.argv[1:4]
    sys.argv[1:4] = []
    watch(watched_for[0], int(watched_for[1]), watched_for[2])
    from sweep.launch import main

    main()
