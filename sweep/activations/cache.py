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
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from sae_core.hashed import hashed_fields
from sweep.corpus.windows import Windows
from sweep.lm.model import LM
from sweep.store.files import write_json
from sweep.store.hashes import file_hash, short_hash

SHARD_ROWS = 65_536  # rows of a shard; the last shard may have fewer
FORMAT = 1  # version of an entry's layout; part of its name
MANIFEST = "manifest.json"
DIGEST = "digest"  # the manifest's own checksum, a key in it: the hash of all its other keys


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
    tokens: int  # rows of the entry
    dtype: str  # as stored: float16 or bfloat16
    seed: int  # seed of the shuffle

    @property
    def name(self) -> str:
        """The name of the entry's folder: 16 hex digits."""
        return short_hash(FORMAT, hashed_fields(self))


class Pool:
    """A finished entry of the cache, read by memory map: a pool of activations to train on.

    Attributes:
        tokens, d_in: the number of rows (one per token) and of columns.
        mean: float32 (d_in,), the mean of all rows; mean ablation puts it in place of the activations.
        mean_norm: mean over rows h of ||h||.
        total_variance: mean over rows h of ||h - mean||^2.

    Raises:
        CacheError: the manifest or a shard is damaged.
    """

    def __init__(self, folder: Path):
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            self.tokens, self.d_in = manifest["tokens"], manifest["d_in"]
            self.mean = torch.tensor(manifest["mean"], dtype=torch.float32)
            self.mean_norm, self.total_variance = manifest["mean_norm"], manifest["total_variance"]
            self._bf16 = manifest["key"]["dtype"] == "bfloat16"
            shards = [(s["file"], s["rows"], s["sha256"]) for s in manifest["shards"]]
            if manifest.pop(DIGEST, None) not in (None, short_hash(manifest)):  # None: an older entry without one
                raise ValueError("it does not match its checksum")
        except PermissionError as error:
            raise _unreadable(folder / MANIFEST, error) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheError(f"activation cache: {folder / MANIFEST} is damaged ({error})") from None
        for file, _, sha256 in shards:
            _check_shard(folder / file, sha256)
        kind = np.uint16 if self._bf16 else np.float16
        self._maps = [
            np.memmap(folder / file, dtype=kind, mode="r", shape=(rows, self.d_in)) for file, rows, _ in shards
        ]

    def rows(self, indices: np.ndarray) -> torch.Tensor:
        """Return the rows `indices` (batch,) in the stored dtype, float16 or bfloat16: (batch, d_in)."""
        if len(self._maps) == 1:
            out = self._maps[0][indices]
        else:
            out = np.empty((len(indices), self.d_in), dtype=self._maps[0].dtype)
            shard, row = np.divmod(indices, SHARD_ROWS)
            for s in np.unique(shard):
                here = shard == s
                out[here] = self._maps[s][row[here]]
        tensor = torch.from_numpy(out)
        return tensor.view(torch.bfloat16) if self._bf16 else tensor


def open_pool(cache_dir: Path, key: CacheKey) -> Pool | None:
    """Open the entry of `key`; return None if there is none yet.

    A damaged entry is moved aside, so that `ensure_pools` rebuilds it.

    Raises:
        DamagedEntryError: a shard or the manifest is damaged.
        UnreadableEntryError: a shard or the manifest may not be read.
    """
    folder = cache_dir / key.name
    if not folder.is_dir():
        return None
    try:
        return Pool(folder)
    except UnreadableEntryError:
        raise
    except CacheError as error:
        aside = folder.with_name(f"{key.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(FileNotFoundError):  # another process was quicker
            os.replace(folder, aside)
        raise DamagedEntryError(f"{error}; moved to {aside}") from None


def ensure_pools(
    cache_dir: Path,
    keys: Sequence[CacheKey],
    load: Callable[[], tuple[LM, Windows]],
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_wait: Callable[[], None] = lambda: None,
) -> None:
    """Make sure that every key has an entry; capture all missing layers in one LM pass.

    Args:
        keys: the keys of the entries, which differ in `layer` only.
        load: returns the LM and the training windows; called only if an entry is missing.
        batch_size: windows per forward pass of the LM.
        on_progress: called with (tokens done, tokens in all) during the pass.
        on_wait: called when another process is already writing one of the entries, before waiting for it.

    Raises:
        CacheError: the disk is too small, or an activation is beyond the range of the stored dtype.
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
            lm, windows = load()
            _write(cache_dir, missing, lm, windows, batch_size, on_progress)


def writing(cache_dir: Path, key: CacheKey) -> Path:
    """Return the folder in which this process writes an entry before it is whole."""
    return cache_dir / f"{key.name}.writing-{socket.gethostname()}-{os.getpid()}"


def remove_stale(cache_dir: Path, key: CacheKey) -> None:
    """Remove the half-written folders that killed writers of an entry left; the caller holds the entry's lock."""
    for stale in cache_dir.glob(f"{key.name}.writing-*"):
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


def _write(cache_dir, keys: list[CacheKey], lm: LM, windows: Windows, batch_size: int, on_progress) -> None:
    """Write the entries of all `keys` in one LM pass; if that fails, leave nothing of them behind."""
    n = windows.n_tokens
    check_disk(cache_dir, len(keys) * entry_bytes(n, lm.d_model))
    try:
        writers = {key.layer: _EntryWriter(cache_dir, key, n, lm.d_model) for key in keys}
        mask = windows.mask()
        done = 0
        for start in range(0, len(windows.tokens), batch_size):
            batch = slice(start, start + batch_size)
            keep = torch.from_numpy(mask[batch])
            captured = lm.capture(torch.from_numpy(windows.tokens[batch]), list(writers))
            for layer, writer in writers.items():
                writer.add(captured[layer].cpu()[keep])
            done += int(keep.sum())
            on_progress(done, n)
        for writer in writers.values():
            writer.finish()
    except BaseException as error:
        for key in keys:
            shutil.rmtree(writing(cache_dir, key), ignore_errors=True)
        if isinstance(error, OSError):
            raise CacheError(f"cache_dir={cache_dir}: writing the activations failed ({error.strerror})") from None
        raise


class _EntryWriter:
    """Writes one entry: every row at its shuffled place, then the manifest with the statistics."""

    def __init__(self, cache_dir: Path, key: CacheKey, n: int, d_in: int):
        self.key, self.n, self.d_in = key, n, d_in
        self.final = cache_dir / key.name
        self.temporary = writing(cache_dir, key)
        self.temporary.mkdir()
        self._sizes = [min(SHARD_ROWS, n - start) for start in range(0, n, SHARD_ROWS)]
        self._files = [f"shard-{i:05d}.bin" for i in range(len(self._sizes))]
        self._maps = []
        for file, rows in zip(self._files, self._sizes, strict=True):
            with open(self.temporary / file, "wb") as stream:
                # Reserve the blocks, so that a full disk shows now and not in the middle of writing to the memory map.
                os.posix_fallocate(stream.fileno(), 0, rows * d_in * 2)
            self._maps.append(np.memmap(self.temporary / file, dtype=np.uint16, mode="r+", shape=(rows, d_in)))
        # The shuffle: token i goes to row _place[i]. Raw PCG64 draws are the same on every platform and numpy version.
        self._place = np.argsort(np.random.PCG64(key.seed).random_raw(n), kind="stable")
        self._done = 0
        self._sum = torch.zeros(d_in, dtype=torch.float64)
        self._norms = self._squares = 0.0

    def add(self, hidden: torch.Tensor) -> None:
        """Write the next rows (tokens, d_in), in the order of the text."""
        stored = hidden.to(torch.bfloat16 if self.key.dtype == "bfloat16" else torch.float16)
        exact = stored.double()
        if not bool(torch.isfinite(exact).all()):
            raise CacheError(
                f"layer={self.key.layer}: an activation is not finite in {self.key.dtype}; "
                "try cache_dtype=bfloat16, which has a wider range"
            )
        self._sum += exact.sum(0)
        self._norms += float(exact.norm(dim=1).sum())
        self._squares += float(exact.square().sum())
        places = self._place[self._done : self._done + len(stored)]
        self._done += len(stored)
        bits = stored.view(torch.int16).numpy().view(np.uint16)
        shard, row = np.divmod(places, SHARD_ROWS)
        for s in np.unique(shard):
            here = shard == s
            self._maps[s][row[here]] = bits[here]

    def finish(self) -> None:
        """Write the manifest and give the entry its final name."""
        for mapped in self._maps:
            mapped.flush()
        self._maps.clear()
        mean = self._sum / self.n
        manifest = {
            "format": FORMAT,
            "key": asdict(self.key),
            "tokens": self.n,
            "d_in": self.d_in,
            "shard_rows": SHARD_ROWS,
            "shards": [
                {"file": file, "rows": rows, "sha256": file_hash(self.temporary / file)}
                for file, rows in zip(self._files, self._sizes, strict=True)
            ],
            "mean": mean.tolist(),
            "mean_norm": self._norms / self.n,
            "total_variance": self._squares / self.n - float(mean.square().sum()),
        }
        write_json(self.temporary / MANIFEST, {**manifest, DIGEST: short_hash(manifest)})
        os.replace(self.temporary, self.final)


def _check_shard(path: Path, sha256: str) -> None:
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
