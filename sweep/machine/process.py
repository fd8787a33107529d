"""What a process that trains asks of its operating system."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
from functools import lru_cache


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks for the next step instead of returning them page by page.

    A training step frees and takes the same buffers again; faulting their pages in anew took half of the first
    compiled one (m=2048, n=16384: 43 ms a step without this, 20 with it). Where the environment has MALLOC_* or
    GLIBC_TUNABLES settings they stay as they are; elsewhere than on glibc nothing happens.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**31 - 1)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        pass


@lru_cache
def settle() -> None:
    """What a process does once, before it trains."""
    keep_freed_memory()
    spare_long_lived_objects()
    atexit.register(gc.unfreeze)  # extensions that look for leaks at exit would find all that is spared


def spare_long_lived_objects() -> None:
    """Python's garbage collector does not look again and again through what lives by now: modules, the LM.

    That took 6 % of the main job's small steps (perf, 2 cores, 2026-11).
    """
    gc.unfreeze()  # what has gone since the last time can be collected
    gc.collect()
    gc.freeze()


def machine_memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
