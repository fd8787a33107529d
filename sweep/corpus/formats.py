"""Which reader reads a file: its suffix says so, before the one that says how it is compressed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from sweep.corpus.blocks import COMPRESSED, compression
from sweep.corpus.decoding import has_mark
from sweep.corpus.jsonl import read_jsonl
from sweep.corpus.parquet import read_parquet
from sweep.corpus.plain import read_plain
from sweep.corpus.reading import Reading

Reader = Callable[[Path, Reading], Iterator[str]]

READERS: dict[str, Reader] = {
    ".txt": read_plain,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": read_parquet,
}
# The endings of the files that a folder is searched for.
SUFFIXES = tuple(suffix + compressed for compressed in COMPRESSED for suffix in READERS)


def reader_of(file: Path) -> Reader:
    """Return the reader of the file. A file of any other suffix is plain text."""
    return READERS.get(_suffix(file), read_plain)


def format_of(file: Path) -> str:
    """Return a word that says how the file is read, or an empty string if it always was read so.

    Files other than plain text were once trained on as they lie on disk, and the mark of UTF-8 was part of the text.
    The word keeps the activations of those days from being taken for today's.

    Raises:
        CorpusError: the file cannot be read.
    """
    if reader_of(file) is not read_plain or compression(file):
        return reader_of(file).__name__ + compression(file)
    return "without mark" if has_mark(file) else ""


def _suffix(file: Path) -> str:
    """Return the suffix in lower case, without the one that says how the file is compressed."""
    return Path(file.stem if compression(file) else file.name).suffix.lower()
