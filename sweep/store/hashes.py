"""Hashes of large files, remembered by path, size and modification time so that a second run need not read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sweep.store.files import write_json


def remembered_hash(files: Sequence[Path], names: Sequence[str], cache_dir: Path) -> str:
    """sha256 over each file's name and content, 16 hex digits.

    Args:
        names: what each file is called in the hash: a relative name, so that moving the folder changes nothing.
        cache_dir: keeps the memory, one small JSON file per set of files.
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
    with suppress(OSError):  # a full disk costs the memory; who needs much of it says so
        write_json(memo, {"sha256": value})
    return value


def file_hash(file: Path) -> str:
    """64 hex digits of the sha256 of the file's bytes."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def short_hash(*parts: object) -> str:
    """16 hex digits of the sha256 of the parts as canonical JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
