"""Text files of the user's own as a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sae_core.hashed import later, later_fields
from sweep.corpus.decoding import encoding_name
from sweep.corpus.documents import CorpusError, Document, check_fraction, label_of, tidy, unit_hash
from sweep.corpus.files import Snapshot, files_of, name_of
from sweep.corpus.formats import SUFFIXES, format_of, reader_of
from sweep.corpus.reading import Reading
from sweep.store.hashes import short_hash


@dataclass(frozen=True, eq=False)  # compared by identity: caches are keyed by the object
class TextCorpus:
    """Text files: plain text, cut into documents at a separator, JSON lines and parquet, whose rows are documents.

    The suffix says how a file is read: .jsonl and .ndjson as JSON lines, .parquet as parquet, every other as plain
    text; .gz or .zst after it, that it is compressed. The same texts are the same documents in every format: without
    the white space around them, with plain newlines, blank ones and copies left out.

    The split ranks documents by the hash of their text and holds out the first `held_out_fraction` of them, at least
    one, so that even a handful of documents has both sides.

    Args:
        path: a file; or a folder, whose .txt, .jsonl, .ndjson and .parquet files are read, hidden ones left out; or a
            glob.
        separator: the text between two documents of plain text; a newline or tab in it may be spelled out as \\n or
            \\t.
        held_out_fraction: the share of documents that are held out.
        text_field: the key (JSON lines) or column (parquet) that holds the text.
        encoding: of plain text and JSON lines.

    Raises:
        CorpusError: a setting is out of range, or (when read) a file is missing, cannot be read, is not what its suffix
            says or not in this encoding, or has changed since it was hashed; or there are fewer than two distinct
            documents.
    """

    path: str
    separator: str = "<|endoftext|>"
    held_out_fraction: float = 0.1
    text_field: str = later("text")
    encoding: str = later("utf-8")

    def __post_init__(self):
        check_fraction(self.held_out_fraction)
        if not self.path:
            raise CorpusError("corpus.path is not set: give a file, a folder or a glob, such as corpus.path=book.txt")
        if not self.separator:
            raise CorpusError("corpus.separator='' must be at least one character: it marks where documents end")
        if not self.text_field:
            raise CorpusError("corpus.text_field='' must name the key or column that holds the text")
        # A newline and a tab are hard to type in a shell.
        object.__setattr__(self, "separator", self.separator.replace("\\n", "\n").replace("\\t", "\t"))
        object.__setattr__(self, "encoding", encoding_name(self.encoding))

    @property
    def label(self) -> str:
        """The text's name in figures and records: `text:` and the name of the file or folder."""
        return label_of("text", name_of(self.path))

    def documents(self) -> Iterator[Document]:
        return iter(self._documents)

    @cached_property
    def _documents(self) -> list[Document]:
        return self._split(self._read())

    @cached_property
    def _snapshot(self) -> Snapshot:
        return Snapshot(files_of(self.path, SUFFIXES), "corpus.path")

    def fingerprint(self, cache_dir: Path) -> str:
        files = self._snapshot.files
        content = self._snapshot.hash([str(i) for i in range(len(files))], cache_dir)
        formats = [format_of(file) for file in files]
        newer = [*later_fields(self), *([formats] if any(formats) else [])]
        return short_hash("text", content, self.separator, self.held_out_fraction, *newer)

    def _read(self) -> Iterator[str]:
        reading = Reading(self.separator, self.text_field, self.encoding)
        for file in self._snapshot.each():
            yield from filter(None, map(tidy, reader_of(file)(file, reading)))

    def _split(self, texts: Iterable[str]) -> list[Document]:
        texts = dict.fromkeys(texts)
        if len(texts) < 2:
            raise CorpusError(
                f"corpus.path={self.path} holds {len(texts)} distinct document(s) when plain text is split at "
                f"corpus.separator={self.separator!r}; train and held-out need at least 2"
            )
        ranked = sorted(texts, key=unit_hash)
        n_held_out = min(len(ranked) - 1, max(1, round(self.held_out_fraction * len(ranked))))
        return [Document(f"{i:06d}", text, i < n_held_out) for i, text in enumerate(ranked)]
