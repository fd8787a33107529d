"""Text files of the user's own as a corpus."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sae_core.hashed import later_fields
from sweep.corpus.documents import CorpusError, Document, check_fraction, unit_hash
from sweep.store.hashes import remembered_hash, short_hash


@dataclass(frozen=True, eq=False)  # compared by identity: caches are keyed by the object
class TextCorpus:
    """Text files, cut into documents at a separator.

    The split ranks documents by the hash of their text and holds out the first `held_out_fraction` of them, at least
    one, so that even a handful of documents has both sides.

    Args:
        path: a UTF-8 text file, or a glob for several.
        separator: the text between two documents; a newline or tab in it may be spelled out as \\n or \\t.
        held_out_fraction: the share of documents that are held out.

    Raises:
        CorpusError: a setting is out of range, or (when read) a file is missing, cannot be read or is not UTF-8, or
            there are fewer than two distinct documents.
    """

    path: str
    separator: str = "<|endoftext|>"
    held_out_fraction: float = 0.1

    def __post_init__(self):
        check_fraction(self.held_out_fraction)
        if not self.path:
            raise CorpusError("corpus.path is not set: give a text file or a glob, for example corpus.path=book.txt")
        if not self.separator:
            raise CorpusError("corpus.separator='' must be at least one character: it marks where documents end")
        # A newline and a tab are hard to type in a shell.
        object.__setattr__(self, "separator", self.separator.replace("\\n", "\n").replace("\\t", "\t"))

    @property
    def label(self) -> str:
        """The text's name in figures and records: `text:` and the file's name."""
        return f"text:{Path(self.path).name}"

    def documents(self) -> Iterator[Document]:
        return iter(self._documents)

    @cached_property
    def _documents(self) -> list[Document]:
        return self._split(list(self._read()))

    def fingerprint(self, cache_dir: Path) -> str:
        files = [Path(f) for f in self._files()]
        content = remembered_hash(files, [str(i) for i in range(len(files))], cache_dir)
        return short_hash("text", content, self.separator, self.held_out_fraction, *later_fields(self))

    def _files(self) -> list[str]:
        expanded = os.path.expanduser(self.path)
        files = [expanded] if os.path.isfile(expanded) else sorted(glob.glob(expanded, recursive=True))
        files = [f for f in files if os.path.isfile(f)]
        if not files:
            raise CorpusError(f"corpus.path={self.path} matches no file")
        return files

    def _read(self) -> Iterator[str]:
        for file in self._files():
            try:
                text = Path(file).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"corpus.path: {file} is not UTF-8 text ({error.reason} at byte {error.start})"
                ) from None
            except OSError as error:
                raise CorpusError(f"corpus.path: {file} cannot be read ({error.strerror})") from None
            yield from (piece.strip() for piece in text.split(self.separator) if piece.strip())

    def _split(self, texts: list[str]) -> list[Document]:
        texts = list(dict.fromkeys(texts))
        if len(texts) < 2:
            raise CorpusError(
                f"corpus.path={self.path} holds {len(texts)} distinct document(s) when split at "
                f"corpus.separator={self.separator!r}; train and held-out need at least 2"
            )
        ranked = sorted(texts, key=unit_hash)
        n_held_out = min(len(ranked) - 1, max(1, round(self.held_out_fraction * len(ranked))))
        return [Document(f"{i:06d}", text, i < n_held_out) for i, text in enumerate(ranked)]
