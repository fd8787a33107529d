"""One pass of the LM over the training text, which makes the cache's missing entries of all layers at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from filelock import FileLock

from sweep.activations.cache import (
    BFLOAT16,
    CacheError,
    CacheKey,
    check_disk,
    pass_bytes,
    remove_stale,
    stored_as,
    writing,
)
from sweep.activations.parts import DamagedPartError, Pass, Progress, Wanted
from sweep.activations.source import Source
from sweep.activations.writer import EntryWriter
from sweep.corpus.windows import Windows
from sweep.lm.ordinary import OutlierRule


def ensure_pools(
    cache_dir: Path,
    keys: Sequence[CacheKey],
    lm: Callable[[], Source],
    windows: Callable[[], Windows],
    batch_size: int,
    on_progress: Progress = lambda done, total: None,
    on_wait: Callable[[], None] = lambda: None,
    rule: Callable[[], OutlierRule | None] = lambda: None,
) -> None:
    """Make sure that every key has an entry; capture all missing layers in one LM pass.

    Processes that want the same entries make the pass together (`sweep.activations.parts`). A second pass is made for
    those layers only whose values turn out to need bfloat16 where `cache_dtype=auto` began with float16.

    Args:
        keys: the keys of the entries, which differ in `layer` only.
        lm, windows: return the LM and the training windows; called only if an entry is missing.
        batch_size: windows per forward pass of the LM.
        on_progress: called during the pass.
        on_wait: called before waiting for what another process has in hand.
        rule: returns the rule by which tokens are ordinary, or None for an LM all of whose tokens are. Every manifest
            says how many are not; a key with `outlier_norm` leaves these out.

    Raises:
        CacheError: the disk is too small, an activation is not finite or beyond the range of the stored dtype, or no
            token is ordinary.
    """
    missing = [key for key in keys if not (cache_dir / key.name).is_dir()]
    if not missing:
        return
    cache_dir.mkdir(parents=True, exist_ok=True)
    capture = _Capture(cache_dir, lm, windows(), batch_size, on_progress, on_wait, rule())
    try:
        if too_wide := capture.entries(missing, None):
            capture.entries(too_wide, BFLOAT16)
            capture.forget(too_wide)
    except OSError as error:
        raise CacheError(f"cache_dir={cache_dir}: writing the activations failed ({error.strerror})") from None


class _Capture:
    """Makes entries of one text. Arguments are those of `ensure_pools`, with windows and rule at hand."""

    def __init__(
        self,
        cache_dir: Path,
        lm: Callable[[], Source],
        windows: Windows,
        batch_size: int,
        on_progress: Progress,
        on_wait: Callable[[], None],
        rule: OutlierRule | None,
    ):
        self._cache_dir, self._lm, self._windows, self._rule = cache_dir, lm, windows, rule
        self._on_progress, self._on_wait = on_progress, on_wait
        self._pass = Pass(cache_dir, windows, batch_size)

    def entries(self, keys: Sequence[CacheKey], dtype: str | None) -> list[CacheKey]:
        """Make the entries of `keys`; return those that must be made anew in bfloat16.

        Args:
            dtype: how rows are stored; None for each key's own dtype.
        """
        wanted = {key: Wanted(key.name, key.layer, stored_as(dtype or key.dtype)) for key in keys}
        too_wide: list[CacheKey] = []
        left = list(keys)
        while left:
            here = [wanted[key] for key in left]
            there = sum(map(self._pass.bytes_there, here))
            d_in = self._lm().d_model
            check_disk(self._cache_dir, len(here) * pass_bytes(self._windows.n_tokens, d_in) - there)
            self._pass.make(here, self._lm, self._on_progress, self._on_wait)
            for key in list(left):
                try:
                    fits = self._assembled(key, wanted[key], dtype or key.dtype)
                except DamagedPartError:
                    continue  # it is made again in the next round
                left.remove(key)
                if fits:
                    self._pass.remove(wanted[key])
                else:  # its parts stay, so that no other process makes them again to find the same
                    too_wide.append(key)
        return too_wide

    def forget(self, keys: Sequence[CacheKey]) -> None:
        """Remove the parts of entries that turned out to need bfloat16, which have been made of others."""
        for key in keys:
            self._pass.remove(Wanted(key.name, key.layer, stored_as(key.dtype)))

    def _assembled(self, key: CacheKey, wanted: Wanted, dtype: str) -> bool:
        """Make the entry of its parts, unless another process has made it; return False if it must be bfloat16."""
        lock = FileLock(self._cache_dir / f"{key.name}.lock")
        try:
            held = lock.acquire(timeout=0)
        except TimeoutError:
            self._on_wait()
            held = lock.acquire()
        with held:
            if (self._cache_dir / key.name).is_dir():
                return True
            remove_stale(self._cache_dir, key.name)
            try:
                return self._written(key, wanted, dtype)
            except DamagedPartError:
                raise
            except CacheError:  # what the LM gives cannot be stored, however often the pass is made
                self._pass.remove(wanted)
                raise
            finally:
                shutil.rmtree(writing(self._cache_dir, key.name), ignore_errors=True)

    def _written(self, key: CacheKey, wanted: Wanted, dtype: str) -> bool:
        writer = EntryWriter(self._cache_dir, key, dtype, self._windows.n_tokens, self._lm().d_model, self._rule)
        for places, captured in self._pass.read(wanted):
            writer.add(places, captured)
            if writer.too_wide:
                return False
        return writer.finish(torch.from_numpy(self._windows.tokens[self._windows.mask()]))
