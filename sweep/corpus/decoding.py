"""Bytes become text: the encoding, newlines of every kind, and errors that name the byte."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from sweep.corpus.documents import CorpusError

# What a file starts with that is no text, whatever its name says.
_KINDS = {
    b"\x1f\x8b": "it is gzip data; let its name end in .gz",
    b"\x28\xb5\x2f\xfd": "it is zstandard data; let its name end in .zst",
    b"PAR1": "it is a parquet file; let its name end in .parquet",
    b"%PDF-": "it is a PDF document; extract its text first",
    b"PK\x03\x04": "it is a zip archive, or a document or e-book in one; extract its text first",
    b"\x89PNG": "it is a picture",
    b"\xff\xd8\xff": "it is a picture",
    b"\x7fELF": "it is a program",
    b"SQLite format 3": "it is an SQLite database",
    **{b"\x80" + bytes([protocol]): "it is a Python pickle" for protocol in range(2, 6)},
}
# The marks at the start of a file that name its encoding, longer ones first.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_WIDE = ("utf-16", "utf-32")  # encodings in which a NUL byte is part of most characters


def encoding_name(encoding: str) -> str:
    """Return the name that Python gives the encoding, so that every spelling of it is the same setting.

    Raises:
        CorpusError: there is no such encoding of text.
    """
    try:
        "a".encode(encoding)
        codecs.getincrementaldecoder(encoding)
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise CorpusError(
            f"corpus.encoding={encoding} is no encoding of text; for example utf-8, utf-16, cp1252 or gb18030"
        ) from None


def decoded(blocks: Iterable[bytes], file: Path, encoding: str) -> Iterator[str]:
    """Yield the text of the blocks without its byte order mark, with \\r\\n and \\r turned into \\n.

    Args:
        blocks: the bytes of the file, decompressed.
        file: the file's name, for errors.
        encoding: as `encoding_name` returns it.

    Raises:
        CorpusError: the bytes are not text in this encoding, or hold NUL bytes that it has no use for.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
    read = 0
    at_start = True
    for block in chain(blocks, [None]):
        data = block or b""
        if read == 0:
            _check_start(data, file, encoding)
        read += len(data)
        _check_no_nul(data, read - len(data), file, encoding)
        try:
            text = decoder.decode(data, final=block is None)
        except UnicodeDecodeError as error:
            at = read - len(error.object) + error.start
            raise _not_text(file, encoding, f"{error.reason} at byte {at}", error.object) from None
        if encoding.startswith(_WIDE) and "\0" in text:
            raise _not_text(file, encoding, "it holds a NUL character", b"")
        if at_start and text:
            text, at_start = text.removeprefix("\ufeff"), False
        yield text


def split_at(texts: Iterable[str], separator: str) -> Iterator[str]:
    """Yield the pieces between separators of the text that comes in parts, as `str.split` does of a whole text."""
    held: list[str] = []  # the start of the piece that is being read
    rest = ""
    for text in texts:
        *ended, rest = (rest + text).split(separator)
        for piece in ended:
            yield "".join([*held, piece])
            held.clear()
        # The last characters may be the start of a separator.
        sure = max(0, len(rest) - len(separator) + 1)
        held.append(rest[:sure])
        rest = rest[sure:]
    yield "".join([*held, rest])


def has_mark(file: Path) -> bool:
    """Return whether the file starts with the mark of UTF-8. Raise CorpusError if it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return stream.read(3) == codecs.BOM_UTF8
    except OSError as error:
        raise CorpusError(f"corpus.path: {file} cannot be read ({error.strerror})") from None


def _check_start(data: bytes, file: Path, encoding: str) -> None:
    """Raise CorpusError where the first bytes alone show that the encoding is wrong."""
    if data.startswith(b"%PDF-"):  # most of these bytes may be plain ASCII
        raise _not_text(file, encoding, "", data)
    if encoding in _WIDE and data and not any(data.startswith(m) for m, name in _MARKS.items() if name == encoding):
        raise CorpusError(
            f"corpus.path: {file} has no byte order mark at byte 0, which corpus.encoding={encoding} needs; "
            f"say {encoding}-le or {encoding}-be, or the encoding that it has"
        )


def _check_no_nul(data: bytes, start: int, file: Path, encoding: str) -> None:
    """Raise CorpusError at a NUL byte, unless the encoding uses them. `start` is the place of `data` in the file."""
    if not encoding.startswith(_WIDE) and (at := data.find(0)) >= 0:
        raise _not_text(file, encoding, f"NUL at byte {start + at}", data)


def _not_text(file: Path, encoding: str, reason: str, data: bytes) -> CorpusError:
    return CorpusError(
        f"corpus.path: {file} is not {encoding.upper()} text{f' ({reason})' if reason else ''}: {_advice(data)}"
    )


def _advice(data: bytes) -> str:
    """Return what the bytes seem to be and what to do."""
    for start, kind in _KINDS.items():
        if data.startswith(start):
            return kind
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return f"try corpus.encoding={name}"
    if 0 not in data:
        return "give its encoding, for example corpus.encoding=cp1252"
    odd, even = (data[start:2000:2].count(0) / max(1, len(data[start:2000:2])) for start in (1, 0))
    if max(odd, even) > 0.4 and min(odd, even) < 0.1:
        return f"try corpus.encoding=utf-16-{'le' if odd > even else 'be'}"
    return "it is binary data, or in an encoding such as corpus.encoding=utf-16"
