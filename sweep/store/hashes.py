"""Hashes that name content, and a memory of large files' hashes so that a second run need not read the files again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sweep.store.files import write_json


def remembered_hash(files: Sequence[Path], names: Sequence[str], cache_dir: Path) -> str:
    """Return 16 hex digits of the sha256 over the name and content of every file.

    The hash is remembered under the files' paths, sizes and modification times; files that have kept these are not read
    again.

    Args:
        names: the name of each file in the hash. A relative name keeps the hash the same when the folder moves.
        cache_dir: the folder that keeps the remembered hashes, one small JSON file per set of files.
    """
    stats = [f.stat() for f in files]
    signature = [[str(f), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)]
    key = hashlib.sha256(json.dumps([signature, list(names)]).encode()).hexdigest()[:32]
    memo = cache_dir / "hashes" / f"{key}.json"
    try:
        return json.loads(memo.read_text())["sha256"]
    except (OSError, ValueError, KeyError):
        pass
    digest = hashlib.sha256()
    for file, name in zip(files, names, strict=True):
        digest.update(name.encode() + b"\0")
        digest.update(bytes.fromhex(file_hash(file)))
    value = digest.hexdigest()[:16]
    with suppress(OSError):  # a full disk only costs the memory: the hash itself is right
        write_json(memo, {"sha256": value})
    return value


def file_hash(file: Path) -> str:
    """Return the sha256 of the file's bytes as 64 hex digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def short_hash(*parts: object) -> str:
    """Return the first 16 hex digits of the sha256 of the parts, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
