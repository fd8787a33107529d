"""The Python standard library's own source as a corpus."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sae_core.hashed import later_fields
from sweep.corpus.documents import CorpusError, Document, check_fraction, unit_hash, without_copies
from sweep.corpus.files import Snapshot
from sweep.store.hashes import short_hash

_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True, eq=False)  # compared by identity: caches are keyed by the object
class StdlibCorpus:
    """The `.py` files of the running interpreter's standard library, split by the hash of their path.

    The path decides the side, so a file that was held out when the embedded LM was trained is held out under every
    other Python version too.

    Args:
        held_out_fraction: about the share of files that are held out.
        root: the folder to read in place of the interpreter's own standard library.

    Raises:
        CorpusError: the fraction is not between 0 and 1, or (when read) the folder has no .py files, one of them
            cannot be read, or has changed since it was hashed.
    """

    held_out_fraction: float = 0.05
    root: str | None = None

    def __post_init__(self):
        check_fraction(self.held_out_fraction)

    @property
    def label(self) -> str:
        """The text's name in figures and records."""
        return "stdlib"

    def documents(self) -> Iterator[Document]:
        return iter(self._documents)

    @cached_property
    def _documents(self) -> list[Document]:
        return without_copies(list(self._read()))

    def fingerprint(self, cache_dir: Path) -> str:
        content = self._snapshot.hash(list(self._files), cache_dir)
        return short_hash("stdlib", content, self.held_out_fraction, *later_fields(self))

    @cached_property
    def _snapshot(self) -> Snapshot:
        return Snapshot(list(self._files.values()), "corpus.root")

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Return {path relative to the root: path} in the order of the paths' hashes, which mixes the packages."""
        found: dict[str, Path] = {}
        root = Path(self.root or sysconfig.get_path("stdlib"))
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = [s for s in subfolders if s not in _LEFT_OUT]
            for name in names:
                # _sysconfigdata is written by each machine's own build of Python.
                if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                    path = Path(folder, name)
                    found[path.relative_to(root).as_posix()] = path
        if not found:
            raise CorpusError(f"no .py files under the standard library's folder {root}")
        return {name: found[name] for name in sorted(found, key=unit_hash)}

    def _read(self) -> Iterator[Document]:
        for name, path in zip(self._files, self._snapshot.each(), strict=True):
            try:
                text = path.read_bytes().decode("utf-8")
            except (UnicodeDecodeError, OSError):  # the standard library's tests have files that are broken on purpose
                continue
            if text.strip():
                yield Document(name, text, unit_hash("stdlib:" + name) < self.held_out_fraction)
