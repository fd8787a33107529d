"""Settings of the present process, made once before it trains, and the machine's memory."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks for the next step instead of returning them page by page.

    Every training step frees buffers and takes them again. Mapping their pages in anew took half of the step in the
    first compiled version (m=2048, n=16384: 43 ms a step without this, 20 with it). If the environment sets MALLOC_* or
    GLIBC_TUNABLES, these settings stay as they are; without glibc nothing happens.
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
def prepare_process() -> None:
    """Prepare the present process for training; further calls do nothing."""
    keep_freed_memory()
    spare_long_lived_objects()
    atexit.register(gc.unfreeze)  # else extensions that look for leaks at exit report every spared object


def spare_long_lived_objects() -> None:
    """Keep Python's garbage collector from looking again and again through the objects alive now: modules, the LM.

    Looking through them took 6 % of the main job's small steps (perf, 2 cores, 2026-11).
    """
    gc.unfreeze()  # so that spared objects which are no longer used can be collected
    gc.collect()
    gc.freeze()


def forget_peak_memory() -> None:
    """Let `peak_memory` begin anew with what this process has in memory now; nothing happens where that cannot be."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Return the most bytes that this process has had in memory since `forget_peak_memory`; None but on Linux."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def machine_memory() -> int:
    """Return the size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
