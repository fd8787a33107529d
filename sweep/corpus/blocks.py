"""The bytes of a file in blocks, decompressed where its name ends in .gz or .zst."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from sweep.corpus.documents import CorpusError

_BLOCK = 1 << 20
_LONGEST_WINDOW = 1 << 31  # bytes that zstd --long=31 may look back


class MissingPackageError(CorpusError):
    """A file can be read only with a package that is not installed."""

    def __init__(self, file: Path, package: str):
        super().__init__(f"corpus.path: {file} needs the package {package}: pip install -e '.[text]'")


class _DamagedError(Exception):
    """Compressed data cannot be decompressed; the message says why."""


def blocks(file: Path) -> Iterator[bytes]:
    """Yield the bytes of the file, a block of about a megabyte at a time.

    Raises:
        CorpusError: the file cannot be read, or is not whole, or not of the kind that its name says.
        MissingPackageError: zstandard is needed and not installed.
    """
    suffix = compression(file)
    decompress = _DECOMPRESS[suffix](file)
    try:
        with open(file, "rb") as raw:
            yield from decompress(raw)
    except (_DamagedError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorpusError(f"corpus.path: {file} is not a whole {suffix} file ({error})") from None
    except OSError as error:
        raise CorpusError(f"corpus.path: {file} cannot be read ({error.strerror})") from None


def compression(file: Path) -> str:
    """Return the file's last suffix if it says that the file is compressed, else an empty string."""
    suffix = file.suffix.lower()
    return suffix if suffix in _DECOMPRESS else ""


def _plain(file: Path) -> Callable[[BinaryIO], Iterator[bytes]]:
    return _read


def _read(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


def _gzip(file: Path) -> Callable[[BinaryIO], Iterator[bytes]]:
    def decompress(raw: BinaryIO) -> Iterator[bytes]:
        if not raw.read(1):  # gzip itself takes an empty file for an empty text
            raise EOFError("it is empty")
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) as stream:
            yield from _read(stream)  # pyright: ignore[reportArgumentType]

    return decompress


def _zstd(file: Path) -> Callable[[BinaryIO], Iterator[bytes]]:
    try:
        import zstandard
    except ImportError:
        raise MissingPackageError(file, "zstandard") from None

    def decompress(raw: BinaryIO) -> Iterator[bytes]:
        # One object per frame, because zstandard's own stream says nothing about a frame that ends early.
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
        frame = decompressor.decompressobj()
        started = False
        for block in _read(raw):
            while block:
                if frame.eof:
                    frame = decompressor.decompressobj()
                try:
                    yield frame.decompress(block)
                except zstandard.ZstdError as error:
                    raise _DamagedError(error) from None
                block, started = frame.unused_data, True
        if not started or not frame.eof:
            raise _DamagedError("it ends early")

    return decompress


_DECOMPRESS = {"": _plain, ".gz": _gzip, ".zst": _zstd}
COMPRESSED = tuple(_DECOMPRESS)
