"""One pass of the LM over the training text, which makes the cache's missing entries of all layers at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from filelock import FileLock

from sweep.activations.cache import BFLOAT16, CacheError, CacheKey, check_disk, entry_bytes, remove_stale, writing
from sweep.activations.writer import EntryWriter
from sweep.corpus.windows import Windows
from sweep.lm.model import LM
from sweep.lm.ordinary import OutlierRule

Progress = Callable[[int, int], None]  # called with (tokens done, tokens in all)


def ensure_pools(
    cache_dir: Path,
    keys: Sequence[CacheKey],
    load: Callable[[], tuple[LM, Windows]],
    batch_size: int,
    on_progress: Progress = lambda done, total: None,
    on_wait: Callable[[], None] = lambda: None,
    rule: Callable[[], OutlierRule | None] = lambda: None,
) -> None:
    """Make sure that every key has an entry; capture all missing layers in one LM pass.

    A second pass is made for those layers only whose values turn out to need bfloat16 where `cache_dtype=auto` began
    with float16.

    Args:
        keys: the keys of the entries, which differ in `layer` only.
        load: returns the LM and the training windows; called only if an entry is missing.
        batch_size: windows per forward pass of the LM.
        on_progress: called during the pass.
        on_wait: called when another process is already writing one of the entries, before waiting for it.
        rule: returns the rule by which tokens are ordinary, or None for an LM all of whose tokens are. Every manifest
            says how many are not; a key with `outlier_norm` leaves these out.

    Raises:
        CacheError: the disk is too small, an activation is not finite or beyond the range of the stored dtype, or no
            token is ordinary.
    """
    if all((cache_dir / key.name).is_dir() for key in keys):
        return
    cache_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        # All processes take the locks in the same order, so that two with overlapping layers never wait for each other.
        for key in sorted(keys, key=lambda k: k.name):
            lock = FileLock(cache_dir / f"{key.name}.lock")
            try:
                locks.enter_context(lock.acquire(timeout=0))
            except TimeoutError:
                on_wait()
                locks.enter_context(lock.acquire())
        missing = [key for key in keys if not (cache_dir / key.name).is_dir()]
        if missing:
            for key in missing:
                remove_stale(cache_dir, key)
            (lm, windows), ordinary = load(), rule()
            too_wide = _one_pass(cache_dir, missing, None, lm, windows, batch_size, on_progress, ordinary)
            if too_wide:
                _one_pass(cache_dir, too_wide, BFLOAT16, lm, windows, batch_size, on_progress, ordinary)


def _one_pass(
    cache_dir: Path,
    keys: Sequence[CacheKey],
    dtype: str | None,
    lm: LM,
    windows: Windows,
    batch_size: int,
    on_progress: Progress,
    rule: OutlierRule | None,
) -> list[CacheKey]:
    """Write the entries of `keys`; return those that must be made anew in bfloat16. A failure leaves nothing behind.

    Args:
        dtype: how rows are stored; None for each key's own dtype.
    """
    n = windows.n_tokens
    check_disk(cache_dir, len(keys) * entry_bytes(n, lm.d_model))
    try:
        writers = [EntryWriter(cache_dir, key, dtype or key.dtype, n, lm.d_model, rule) for key in keys]
        _feed(writers, lm, windows, batch_size, on_progress)
        tokens = torch.from_numpy(windows.tokens[windows.mask()])
        return [writer.key for writer in writers if not writer.finish(tokens)]
    except OSError as error:
        raise CacheError(f"cache_dir={cache_dir}: writing the activations failed ({error.strerror})") from None
    finally:
        for key in keys:
            shutil.rmtree(writing(cache_dir, key), ignore_errors=True)


def _feed(writers: Sequence[EntryWriter], lm: LM, windows: Windows, batch_size: int, on_progress: Progress) -> None:
    """Run the LM over all windows, and hand each writer the activations of its layer's real tokens."""
    mask, done = windows.mask(), 0
    for start in range(0, len(windows.tokens), batch_size):
        open_writers = [writer for writer in writers if not writer.too_wide]
        if not open_writers:
            return
        batch = slice(start, start + batch_size)
        keep = torch.from_numpy(mask[batch])
        layers = [writer.key.layer for writer in open_writers]
        captured = lm.capture(torch.from_numpy(windows.tokens[batch]), layers)
        for writer in open_writers:
            writer.add(captured[writer.key.layer].cpu()[keep])
        done += int(keep.sum())
        on_progress(done, windows.n_tokens)
