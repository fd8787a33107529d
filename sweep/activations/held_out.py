"""The activations of the held-out windows at a hook point, kept so that what is measured there can start there.

An entry is a folder of the activation cache with one file of raw values, in the dtype in which the LM computes them,
and a manifest with its checksum. It appears by rename, and is made again where it turns out damaged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from sweep.activations.cache import (
    DIGEST,
    MANIFEST,
    CacheError,
    UnreadableEntryError,
    check_disk,
    check_file,
    read_manifest,
    remove_stale,
    writing,
)
from sweep.activations.parts import DamagedPartError, Pass, Progress, Wanted
from sweep.activations.source import Source
from sweep.corpus.windows import Windows
from sweep.store.files import write_json
from sweep.store.hashes import file_hash, short_hash

HELD_OUT = "held-out"  # the folder of all entries, in the cache
_FORMAT = 1
_FILE = "activations.bin"


@dataclass(frozen=True)
class HeldOutKey:
    """Everything that determines the activations: the LM, the hook point and the windows."""

    lm: str  # hash of the LM's weights, config and tokenizer
    lm_dtype: str
    layer: int
    hook: str  # the place in the block: "resid_post"
    windows: str  # the windows' digest

    @property
    def name(self) -> str:
        """The name of the entry's folder: 16 hex digits."""
        return short_hash(_FORMAT, asdict(self))

    def folder(self, cache_dir: Path) -> Path:
        """Return the entry's folder in the cache."""
        return cache_dir / HELD_OUT / self.name


class HeldOut:
    """A finished entry.

    Raises:
        CacheError: the manifest or the file is damaged.
    """

    def __init__(self, folder: Path, windows: Windows):
        try:
            manifest = read_manifest(folder)
            self._dtype = getattr(torch, manifest["dtype"])
            check_file(folder / _FILE, manifest["sha256"])
            raw = np.memmap(folder / _FILE, dtype=np.uint8, mode="r")
            self._rows = raw.reshape(windows.n_tokens, manifest["d_in"] * self._dtype.itemsize)
        except PermissionError as error:
            raise UnreadableEntryError(f"activation cache: {folder} cannot be read ({error.strerror})") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CacheError(f"activation cache: {folder} is damaged ({error})") from None
        self._windows = windows
        self._starts = np.cumsum(windows.lengths) - windows.lengths

    def of(self, part: slice) -> torch.Tensor:
        """Return the activations of the windows `part` (windows, length, d_in), zeros at padding."""
        length = self._windows.tokens.shape[1]
        indices = range(len(self._windows.tokens))[part]
        out = np.zeros((len(indices), length, self._rows.shape[1]), dtype=np.uint8)
        for row, window in enumerate(indices):
            start, real = self._starts[window], self._windows.lengths[window]
            out[row, :real] = self._rows[start : start + real]
        return torch.from_numpy(out).view(self._dtype)


def open_held_out(cache_dir: Path, key: HeldOutKey, windows: Windows) -> HeldOut | None:
    """Return the opened entry of `key`, or None if there is none. A damaged entry is removed."""
    folder = key.folder(cache_dir)
    try:
        return HeldOut(folder, windows) if folder.is_dir() else None
    except UnreadableEntryError:
        raise
    except CacheError:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def ensure_held_out(
    cache_dir: Path,
    keys: Sequence[HeldOutKey],
    lm: Callable[[], Source],
    windows: Windows,
    batch_size: int,
    on_progress: Progress = lambda done, total: None,
    on_wait: Callable[[], None] = lambda: None,
) -> None:
    """Make sure that every key has an entry; those that are missing are made in one LM pass.

    Args:
        keys: the keys, which differ in `layer` only.
        lm: returns the LM; called only if an entry is to be made.
        batch_size: windows per forward pass of the LM.
        on_progress, on_wait: as for `sweep.activations.capture.ensure_pools`.

    Raises:
        CacheError: the disk is too small, or an activation is not finite.
    """
    while missing := [key for key in keys if not key.folder(cache_dir).is_dir()]:
        try:
            _make(cache_dir / HELD_OUT, missing, lm, windows, batch_size, on_progress, on_wait)
        except OSError as error:
            raise CacheError(f"cache_dir={cache_dir}: writing the activations failed ({error.strerror})") from None


def _make(
    place: Path,
    keys: Sequence[HeldOutKey],
    lm: Callable[[], Source],
    windows: Windows,
    batch_size: int,
    on_progress: Progress,
    on_wait: Callable[[], None],
) -> None:
    """Make the entries of `keys`, as far as no part of the pass turns out damaged."""
    place.mkdir(parents=True, exist_ok=True)
    check_disk(place, len(keys) * held_out_bytes(windows.n_tokens, lm().d_model))
    lm_pass = Pass(place, windows, batch_size)
    wanted = [Wanted(key.name, key.layer, None) for key in keys]
    lm_pass.make(wanted, lm, on_progress, on_wait)
    for key, one in zip(keys, wanted, strict=True):
        with FileLock(place / f"{key.name}.lock"):
            try:
                if not (place / key.name).is_dir():
                    _write(place, key, lm_pass, one, windows)
            except DamagedPartError:
                continue
            finally:
                shutil.rmtree(writing(place, key.name), ignore_errors=True)
        lm_pass.remove(one)


def _write(place: Path, key: HeldOutKey, lm_pass: Pass, wanted: Wanted, windows: Windows) -> None:
    remove_stale(place, key.name)
    rows: torch.Tensor | None = None
    for places, captured in lm_pass.read(wanted):
        if rows is None:
            rows = captured.rows.new_empty(windows.n_tokens, captured.rows.shape[1])
        rows[torch.from_numpy(places)] = captured.rows
    assert rows is not None, "there is at least one window"
    temporary = writing(place, key.name)
    temporary.mkdir()
    rows.view(torch.uint8).numpy().tofile(temporary / _FILE)
    manifest = {
        "format": _FORMAT,
        "key": asdict(key),
        "dtype": str(rows.dtype).removeprefix("torch."),
        "tokens": len(rows),
        "d_in": rows.shape[1],
        "sha256": file_hash(temporary / _FILE),
    }
    write_json(temporary / MANIFEST, {**manifest, DIGEST: short_hash(manifest)})
    os.replace(temporary, place / key.name)


def held_out_bytes(tokens: int, d_in: int) -> int:
    """Return the most bytes that making one entry takes, at four bytes a value: its parts, and itself."""
    return 8 * tokens * d_in
