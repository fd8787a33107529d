"""The activation cache: one LM pass feeds a whole sweep.

An entry holds the activations of one layer and is a folder named by the hash of all that determines its content. In it
lie raw shards of a fixed size (rows of d_in values, shuffled once when written) and `manifest.json`, with a checksum
per shard and the statistics of all rows. An entry is written under a temporary name and renamed when it is whole, so a
killed writer leaves nothing that looks complete. A file lock, which the operating system releases when its holder ends,
makes one process write while the others wait.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core.hashed import changes_no_result, hashed_fields, later
from sweep.activations.norms import Norms, norms_from
from sweep.store.hashes import file_hash, short_hash

FORMAT = 1  # version of an entry's layout; part of its name
MANIFEST = "manifest.json"
DIGEST = "digest"  # the manifest's own checksum, a key in it: the hash of all its other keys
NORMS = "norms"  # the key of what the manifest says of the tokens' norms; older entries do not have it
FLOAT16, BFLOAT16 = "float16", "bfloat16"


class CacheError(ValueError):
    """The cache cannot be written, for example because the disk is full, or it cannot be read because it is damaged."""


class UnreadableEntryError(CacheError):
    """A file of an entry may not be read; that does not make it damaged, and it stays as it is."""


class DamagedEntryError(CacheError):
    """An entry is not as it was written; it has been moved aside and can be made again."""


@dataclass(frozen=True)
class CacheKey:
    """Everything that determines an entry's content: the LM, the hook point, the text and the way of storing."""

    lm: str  # hash of the LM's weights, config and tokenizer
    lm_dtype: str
    layer: int
    hook: str  # the place in the block: "resid_post"
    corpus: str  # the corpus's fingerprint
    window: int  # tokens per window
    bos: str  # where beginning-of-sequence tokens stand, see `sweep.corpus.windows.WindowConfig`
    tokens: int  # tokens that are captured; as many rows as the entry has if none is left out
    dtype: str  # as stored: float16 or bfloat16
    seed: int  # seed of the shuffle
    outlier_norm: float | None = later(None)  # tokens that are not ordinary by this factor are left out; None keeps all
    # Tokens of the buffer through which activations come straight from the LM; None where they lie on disk.
    stream: int | None = later(None)
    may_widen: bool = changes_no_result(False)  # whether bfloat16 is stored where a value does not fit float16

    @property
    def name(self) -> str:
        """The name of the entry's folder: 16 hex digits."""
        return short_hash(FORMAT, hashed_fields(self))


def stored_as(dtype: str) -> torch.dtype:
    """Return the torch dtype of an entry's rows by its name, "float16" or "bfloat16"."""
    return torch.bfloat16 if dtype == BFLOAT16 else torch.float16


class Pool:
    """A finished entry of the cache, read by memory map: a pool of activations to train on.

    Attributes:
        tokens, d_in: the number of rows (one per token) and of columns.
        dtype: how rows are stored, "float16" or "bfloat16".
        norms: what is known of the norms of the captured tokens; None where all tokens are ordinary by declaration, and
            in older entries.
        mean: float32 (d_in,), the mean of all rows; mean ablation puts it in place of the activations.
        mean_norm: mean over rows h of ||h||.
        total_variance: mean over rows h of ||h - mean||^2.

    Raises:
        CacheError: the manifest or a shard is damaged.
    """

    def __init__(self, folder: Path):
        try:
            manifest = read_manifest(folder)
            self.tokens, self.d_in = manifest["tokens"], manifest["d_in"]
            self.mean = torch.tensor(manifest["mean"], dtype=torch.float32)
            self.mean_norm, self.total_variance = manifest["mean_norm"], manifest["total_variance"]
            self.dtype, self.norms = manifest["key"]["dtype"], norms_from(manifest.get(NORMS))
            self._shard_rows = manifest["shard_rows"]
            shards = [(s["file"], s["rows"], s["sha256"]) for s in manifest["shards"]]
        except PermissionError as error:
            raise _unreadable(folder / MANIFEST, error) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheError(f"activation cache: {folder / MANIFEST} is damaged ({error})") from None
        for file, _, sha256 in shards:
            check_file(folder / file, sha256)
        kind = np.uint16 if self.dtype == BFLOAT16 else np.float16
        self._maps = [
            np.memmap(folder / file, dtype=kind, mode="r", shape=(rows, self.d_in)) for file, rows, _ in shards
        ]

    def rows(self, indices: np.ndarray) -> torch.Tensor:
        """Return the rows `indices` (batch,) in the stored dtype, float16 or bfloat16: (batch, d_in)."""
        if len(self._maps) == 1:
            out = self._maps[0][indices]
        else:
            out = np.empty((len(indices), self.d_in), dtype=self._maps[0].dtype)
            shard, row = np.divmod(indices, self._shard_rows)
            for s, rows in enumerate(self._maps):
                here = np.flatnonzero(shard == s)
                out[here] = rows[row[here]]
        tensor = torch.from_numpy(out)
        return tensor.view(torch.bfloat16) if self.dtype == BFLOAT16 else tensor


def open_pool(cache_dir: Path, key: CacheKey) -> Pool | None:
    """Open the entry of `key`; return None if there is none yet.

    A damaged entry is moved aside, so that `ensure_pools` rebuilds it.

    Raises:
        DamagedEntryError: a shard or the manifest is damaged.
        UnreadableEntryError: a shard or the manifest may not be read.
        CacheError: float16 is asked for, and the entry was stored as bfloat16, because its values need that.
    """
    folder = cache_dir / key.name
    if not folder.is_dir():
        return None
    try:
        pool = Pool(folder)
    except UnreadableEntryError:
        raise
    except CacheError as error:
        aside = folder.with_name(f"{key.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):  # another process was quicker
            os.replace(folder, aside)
        raise DamagedEntryError(f"{error}; moved to {aside}") from None
    if pool.dtype != key.dtype and not key.may_widen:
        raise CacheError(
            f"cache_dtype={key.dtype}: the activations at layer={key.layer} need {pool.dtype}, as auto found"
        )
    return pool


def norms_of_entry(cache_dir: Path, key: CacheKey) -> Norms | None:
    """Return what is known of the norms at the layer of `key`; None where nothing is. No shard is read."""
    try:
        return norms_from(read_manifest(cache_dir / key.name).get(NORMS))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def writing(cache_dir: Path, name: str) -> Path:
    """Return the folder in which this process writes the entry `name` before it is whole."""
    return cache_dir / f"{name}.writing-{socket.gethostname()}-{os.getpid()}"


def remove_stale(cache_dir: Path, name: str) -> None:
    """Remove the half-written folders that killed writers of an entry left; the caller holds the entry's lock."""
    for stale in cache_dir.glob(f"{name}.writing-*"):
        shutil.rmtree(stale)


def check_disk(folder: Path, n_bytes: int, key: str = "cache_dir") -> None:
    """Raise CacheError unless `n_bytes` fit on the disk of `folder`; `key` is the setting that the message names."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise CacheError(
            f"{key}={folder}: the activations need {n_bytes:,} bytes and {free:,} are free; "
            f"point {key} at another disk or ask for fewer corpus.train_tokens"
        )


def entry_bytes(tokens: int, d_in: int) -> int:
    """Return the bytes of one entry's shards, two per value."""
    return 2 * tokens * d_in


def pass_bytes(tokens: int, d_in: int) -> int:
    """Return the bytes that making one entry takes: its parts lie on the disk until it is made of them."""
    return 2 * entry_bytes(tokens, d_in) + 5 * tokens


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an entry. Raise ValueError if it does not match its checksum."""
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest.pop(DIGEST, None) not in (None, short_hash(manifest)):  # None: an older entry without one
        raise ValueError("it does not match its checksum")
    return manifest


def check_file(path: Path, sha256: str) -> None:
    """Raise CacheError unless the file has this checksum."""
    try:
        whole = file_hash(path) == sha256
    except PermissionError as error:
        raise _unreadable(path, error) from None
    except OSError as error:
        raise CacheError(f"activation cache: {path} cannot be read ({error.strerror})") from None
    if not whole:
        raise CacheError(f"activation cache: {path} does not match its checksum")


def _unreadable(path: Path, error: OSError) -> UnreadableEntryError:
    return UnreadableEntryError(
        f"activation cache: {path} cannot be read ({error.strerror}): "
        "ask its owner for permission, or give another cache_dir"
    )
