"""Copies of the activation cache's entries on the machine's own disk, for caches that lie on a shared one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from sweep.activations.cache import CacheError, CacheKey, check_disk, remove_stale, writing


def copy_to_local_disk(cache_dir: Path, key: CacheKey, local: Path, on_copy: Callable[[], None] = lambda: None) -> None:
    """Make sure that the folder `local` has a copy of the entry `key` of `cache_dir`.

    One process of the machine copies while the others wait. `open_pool(local, key)` checks the copy against the
    manifest's checksums.

    Args:
        on_copy: called once before the entry is copied; not called if the copy is there already.

    Raises:
        CacheError: the entry does not fit on the local disk, or copying fails.
    """
    original, copy = cache_dir / key.name, local / key.name
    if copy.is_dir():
        return
    local.mkdir(parents=True, exist_ok=True)
    with FileLock(local / f"{key.name}.lock"):
        if copy.is_dir():
            return
        remove_stale(local, key.name)
        check_disk(local, sum(file.stat().st_size for file in original.iterdir()), "cache.local")
        on_copy()
        temporary = writing(local, key.name)
        try:
            shutil.copytree(original, temporary)
            os.replace(temporary, copy)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CacheError(f"cache.local={local}: copying the activations failed ({error})") from None
