"""The files that a corpus reads: which ones a path means, and a watch that they stay what they were.

A corpus is named by the hash of its files, and reads them later. A file that changes in between would put new text
under the name of the old one, so a snapshot remembers size and time of each file and refuses one that has others.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sweep.corpus.documents import CorpusError
from sweep.store.hashes import remembered_hash


class Snapshot:
    """Files as they were when the snapshot was taken.

    Args:
        files: the files.
        key: the setting that names them, for errors.

    Raises:
        CorpusError: a file cannot be looked at.
    """

    def __init__(self, files: Sequence[Path], key: str):
        self.files = list(files)
        self._key = key
        self._stats = {file: self._stat(file) for file in self.files}

    def hash(self, names: Sequence[str], cache_dir: Path) -> str:
        """Return 16 hex digits that name the content of the files, under the names given.

        Raises:
            CorpusError: a file cannot be read, or has changed since the snapshot.
        """
        try:
            value = remembered_hash(self.files, names, cache_dir)
        except OSError as error:
            raise CorpusError(f"{self._key}: {error.filename} cannot be read ({error.strerror})") from None
        self.check(*self.files)
        return value

    def check(self, *files: Path) -> None:
        """Raise CorpusError if one of the files has changed since the snapshot."""
        for file in files:
            if self._stat(file) != self._stats[file]:
                raise CorpusError(
                    f"{self._key}: {file} has changed since this command began; start it again when the file is whole"
                )

    def each(self) -> Iterator[Path]:
        """Yield the files one by one; each is checked before and after the caller reads it."""
        for file in self.files:
            self.check(file)
            yield file
            self.check(file)

    def _stat(self, file: Path) -> tuple[int, int]:
        try:
            stat = file.stat()
        except OSError as error:
            raise CorpusError(f"{self._key}: {file} cannot be read ({error.strerror})") from None
        return stat.st_size, stat.st_mtime_ns


def files_of(path: str, suffixes: Sequence[str]) -> list[Path]:
    """Return the files that `corpus.path` means, in sorted order.

    That is the file itself; or of a folder the files below it that have one of the suffixes, hidden ones left out; or
    whatever files a glob matches.

    Raises:
        CorpusError: there are none.
    """
    expanded = os.path.expanduser(path)
    if "\0" in expanded:
        raise CorpusError(f"corpus.path={path!r} holds a NUL character, which no file's name can")
    if os.path.isfile(expanded):
        return [Path(expanded)]
    if os.path.isdir(expanded):
        found = sorted(f for f in below(Path(expanded)) if f.name.lower().endswith(tuple(suffixes)))
        if not found:
            raise CorpusError(
                f"corpus.path={path} is a folder without a file that ends in {', '.join(suffixes)}; "
                f"for other text files give a glob, such as corpus.path='{path.rstrip('/')}/**/*.md'"
            )
        return found
    files = [Path(f) for f in sorted(glob.glob(expanded, recursive=True)) if os.path.isfile(f)]
    if not files:
        raise CorpusError(f"corpus.path={path} matches no file")
    return files


def below(folder: Path) -> Iterator[Path]:
    """Yield every file below the folder, except hidden ones and those in hidden folders.

    Raises:
        CorpusError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise CorpusError(f"corpus: the folder {error.filename} cannot be read ({error.strerror})")

    for here, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(here, n) for n in names if not n.startswith(".") and os.path.isfile(os.path.join(here, n)))


def name_of(path: str) -> str:
    """Return a short name for what `corpus.path` means: a file's or folder's name, and a glob with its folder's."""
    parts = Path(os.path.abspath(os.path.expanduser(path))).parts
    start = len(parts) - 1
    while start > 0 and glob.has_magic(parts[start]) and not os.path.exists(os.path.join(*parts[: start + 1])):
        start -= 1
    return "/".join(parts[start:]).lstrip("/") or "/"
