"""Write one entry of the activation cache: every row at its shuffled place, then the manifest with the statistics."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sweep.activations.cache import (
    BFLOAT16,
    DIGEST,
    FORMAT,
    MANIFEST,
    NORMS,
    CacheError,
    CacheKey,
    stored_as,
    writing,
)
from sweep.activations.norms import Norms, judged
from sweep.activations.parts import Captured
from sweep.lm.ordinary import OutlierRule
from sweep.store.files import write_json
from sweep.store.hashes import file_hash, short_hash

SHARD_ROWS = 65_536  # rows of a shard; the last shard may have fewer


class EntryWriter:
    """Writes an entry under a temporary name; `finish` gives it its own.

    Args:
        key: the entry's key. With `outlier_norm`, tokens that are not ordinary are left out.
        dtype: how rows are stored, "float16" or "bfloat16".
        n: how many rows will be added, of any order.
        rule: which tokens are ordinary; None where all are.

    Attributes:
        too_wide: a value does not fit float16, so that the entry must be made anew in bfloat16. Set while rows are
            added if they are all kept, and by `finish` if some are left out, which are not known before.
    """

    def __init__(self, cache_dir: Path, key: CacheKey, dtype: str, n: int, d_in: int, rule: OutlierRule | None):
        self.key, self.n, self.d_in, self.too_wide = key, n, d_in, False
        self._dtype, self._rule, self._leaves_out = dtype, rule, key.outlier_norm is not None
        self._final, self._temporary = cache_dir / key.name, writing(cache_dir, key.name)
        self._temporary.mkdir()
        self._shards = _Shards(self._temporary, n, d_in)
        # The shuffle: token i goes to row _place[i]. Raw PCG64 draws are the same on every platform and numpy version.
        self._place = np.argsort(np.random.PCG64(key.seed).random_raw(n), kind="stable")
        self._norms = torch.zeros(n)
        self._fits = torch.ones(n, dtype=torch.bool)  # whether each row's values are finite as they are stored

    def add(self, tokens: np.ndarray, captured: Captured) -> None:
        """Write the rows of `tokens` (rows,), which are places in the order of the text."""
        self._norms[tokens] = captured.norms
        self._fits[tokens] = captured.fits
        if not self._leaves_out and not bool(captured.fits.all()):
            self._give_up()
            return
        self._shards.scatter(self._place[tokens], captured.rows.view(torch.int16).numpy().view(np.uint16))

    def finish(self, tokens: torch.Tensor) -> bool:
        """Leave out what is to be left out, write the manifest and give the entry its final name.

        Args:
            tokens: int64 (n,), the ids of the tokens that the rows are from, in the order of the text.

        Returns:
            False if the entry must be made anew in bfloat16; then there is none.
        """
        if self.too_wide:
            return False
        about_norms = {} if self._rule is None else {NORMS: self._judged(self._rule, tokens)._asdict()}
        if self.too_wide:
            return False
        sums = _Sums(self.d_in)
        for stored in self._shards.rows():
            sums.add(torch.from_numpy(stored.view(np.int16)).view(stored_as(self._dtype)))
        rows, shards = self._shards.close()
        manifest = {
            "format": FORMAT,
            "key": {**asdict(self.key), "dtype": self._dtype},
            "tokens": rows,
            "d_in": self.d_in,
            "shard_rows": SHARD_ROWS,
            "shards": shards,
            **sums.as_manifest(rows),
            **about_norms,
        }
        write_json(self._temporary / MANIFEST, {**manifest, DIGEST: short_hash(manifest)})
        os.replace(self._temporary, self._final)
        return True

    def _judged(self, rule: OutlierRule, tokens: torch.Tensor) -> Norms:
        """Return what the manifest says of the tokens' norms; take the rows out that are to be left out."""
        try:
            norms = judged(rule, tokens, self._norms)
        except ValueError as error:
            raise CacheError(f"layer={self.key.layer}: {error}") from None
        if self._leaves_out:
            self._drop(~norms.ordinary.among(tokens, self._norms))
        return norms

    def _drop(self, out: torch.Tensor) -> None:
        """Take the rows for which `out`, bool (n,), is true out of the shards, unless a row that stays does not fit."""
        if not bool(self._fits[~out].all()):
            self._give_up()
            return
        keep = np.empty(self.n, dtype=bool)
        keep[self._place] = ~out.numpy()
        self._shards.compact(keep)

    def _give_up(self) -> None:
        """Note that a row does not fit the stored dtype. Raise CacheError where no other dtype may be taken."""
        if not self.key.may_widen or self._dtype == BFLOAT16:
            wider = "" if self._dtype == BFLOAT16 else "; cache_dtype=auto takes bfloat16, which has a wider range"
            raise CacheError(f"layer={self.key.layer}: an activation is beyond the range of {self._dtype}{wider}")
        self.too_wide = True


class _Sums:
    """Sums in float64 over rows as they are stored."""

    def __init__(self, d_in: int):
        self._sum = torch.zeros(d_in, dtype=torch.float64)
        self._norms = self._squares = 0.0

    def add(self, stored: torch.Tensor) -> None:
        exact = stored.double()
        self._sum += exact.sum(0)
        self._norms += float(exact.norm(dim=1).sum())
        self._squares += float(exact.square().sum())

    def as_manifest(self, n: int) -> dict[str, Any]:
        """Return the statistics of all n rows, by their names in the manifest."""
        mean = self._sum / n
        return {
            "mean": mean.tolist(),
            "mean_norm": self._norms / n,
            "total_variance": self._squares / n - float(mean.square().sum()),
        }


class _Shards:
    """The files of an entry that is being written: n rows of d_in values of two bytes, in shards of SHARD_ROWS."""

    def __init__(self, folder: Path, n: int, d_in: int):
        self._folder, self._d_in, self._rows = folder, d_in, n
        self._maps: list[np.memmap] = []
        for start in range(0, n, SHARD_ROWS):
            rows = min(SHARD_ROWS, n - start)
            with open(self._file(len(self._maps)), "wb") as stream:
                # Reserve the blocks, so that a full disk shows now and not in the middle of writing to the memory map.
                os.posix_fallocate(stream.fileno(), 0, rows * d_in * 2)
            file = self._file(len(self._maps))
            self._maps.append(np.memmap(file, dtype=np.uint16, mode="r+", shape=(rows, d_in)))

    def _file(self, shard: int) -> Path:
        return self._folder / f"shard-{shard:05d}.bin"

    def scatter(self, places: np.ndarray, bits: np.ndarray) -> None:
        """Write row bits[i] (of d_in uint16) at place[i], for all i."""
        shard, row = np.divmod(places, SHARD_ROWS)
        for s in np.unique(shard):
            here = shard == s
            self._maps[s][row[here]] = bits[here]

    def compact(self, keep: np.ndarray) -> None:
        """Keep the rows for which `keep`, bool (n,), is true, in their order."""
        done = 0
        for s, mapped in enumerate(self._maps):
            first = s * SHARD_ROWS
            rows = np.array(mapped[keep[first : first + len(mapped)]])
            self.scatter(np.arange(done, done + len(rows)), rows)  # never beyond the rows read so far
            done += len(rows)
        self._rows = done

    def rows(self) -> Iterator[np.ndarray]:
        """Yield the rows that there are as uint16 (rows, d_in), a shard at a time."""
        for s, mapped in enumerate(self._maps):
            yield np.array(mapped[: max(0, self._rows - s * SHARD_ROWS)])

    def close(self) -> tuple[int, list[dict[str, Any]]]:
        """Return (rows, the manifest's list of shards), after cutting the files to the rows that there are."""
        for mapped in self._maps:
            mapped.flush()
        count = len(self._maps)
        self._maps.clear()
        shards: list[dict[str, Any]] = []
        for s in range(count):
            file, rows = self._file(s), min(SHARD_ROWS, self._rows - s * SHARD_ROWS)
            if rows <= 0:
                file.unlink()
                continue
            os.truncate(file, rows * self._d_in * 2)
            shards.append({"file": file.name, "rows": rows, "sha256": file_hash(file)})
        return self._rows, shards
