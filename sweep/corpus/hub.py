"""A dataset of the Hugging Face hub, or a folder of this disk that `datasets` can read, as a corpus."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_core.hashed import later_fields
from sweep.corpus.documents import CorpusError, Document, check_fraction, label_of, unit_hash
from sweep.corpus.files import Snapshot, below, name_of
from sweep.corpus.rows import field_names, text_of
from sweep.store.hashes import short_hash

# Names that `datasets` takes for its own readers, which then read whatever lies in the current folder.
_READERS = ("arrow", "csv", "hdf5", "json", "lance", "pandas", "parquet", "sql", "text", "webdataset", "xml")


@dataclass(frozen=True, eq=False)  # compared by identity: caches are keyed by the object
class HubCorpus:
    """A dataset of the Hugging Face hub, streamed through `datasets` (extra `hub`), split by the hash of each text.

    `documents()` opens the stream anew; a caller that has enough tokens stops reading, and nothing more is downloaded.
    A stream cannot be hashed beforehand, so a dataset of the hub must be pinned to a commit, and the fingerprint is a
    hash of the settings, the commit among them. Of a folder on this disk the fingerprint covers all files.

    Args:
        name: the dataset's name on the hub, or a folder, which is read by `datasets` too.
        split, config_name: which part, as `datasets.load_dataset` takes them.
        revision: the commit on the hub, 40 hex digits; without effect on a folder.
        text_field: the field of a row that holds the text. A row without text is left out.
        held_out_fraction: about the share of texts that are held out.

    Raises:
        CorpusError: the fraction is not between 0 and 1; or (when hashed or read) the dataset is not pinned, `datasets`
            is not installed, the dataset cannot be streamed, its rows have no such field or hold no text in it, or a
            folder has no files or has changed since it was hashed.
    """

    name: str
    split: str = "train"
    revision: str | None = None
    text_field: str = "text"
    config_name: str | None = None
    held_out_fraction: float = 0.1

    def __post_init__(self):
        check_fraction(self.held_out_fraction)

    @property
    def label(self) -> str:
        """The text's name in figures and records: `hub:` and the dataset's name."""
        return label_of("hub", name_of(self.name) if self._folder else self.name.rsplit("/", 1)[-1])

    def documents(self) -> Iterator[Document]:
        seen: set[bytes] = set()
        for i, row in enumerate(self._rows()):
            if self.text_field not in row:
                raise CorpusError(
                    f"corpus.text_field={self.text_field} is not one of the fields of {self.name}: {field_names(row)}"
                )
            text = text_of(row[self.text_field], f"corpus.name={self.name}, row {i}", self.text_field) or ""
            key = hashlib.sha256(text.encode()).digest()
            if text.strip() and key not in seen:
                seen.add(key)
                yield Document(f"{i:09d}", text, unit_hash(text) < self.held_out_fraction)

    def fingerprint(self, cache_dir: Path) -> str:
        self._check_pinned()
        dataset = (self.name, self.config_name, self.split, self.revision, self.text_field)
        if self._folder:
            names = [ascii(file.relative_to(self._folder).as_posix()) for file in self._snapshot.files]
            content = self._snapshot.hash(names, cache_dir)
            dataset = ("folder", self.config_name, self.split, content, self.text_field)
        return short_hash("hub", *dataset, self.held_out_fraction, *later_fields(self))

    @cached_property
    def _folder(self) -> Path | None:
        """The folder on this disk that the name means, which `datasets` looks for first."""
        folder = Path(self.name).expanduser()
        return folder if folder.is_dir() else None

    @cached_property
    def _snapshot(self) -> Snapshot:
        """The files of the folder; of a dataset of the hub there are none."""
        files = sorted(below(self._folder)) if self._folder else []
        if self._folder and not files:
            raise CorpusError(f"corpus.name={self.name} is a folder without files")
        return Snapshot(files, "corpus.name")

    def _check_pinned(self) -> None:
        """Raise CorpusError unless the name means a folder or a dataset whose content cannot change."""
        if self._folder:
            return
        if Path(self.name).expanduser().is_file():
            raise CorpusError(f"corpus.name={self.name} is a file: read it with corpus=text corpus.path={self.name}")
        if self.name in _READERS or not self.name:
            raise CorpusError(
                f"corpus.name={self.name} names no dataset; files are read by corpus=text corpus.path=..."
            )
        if not re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            raise CorpusError(
                f"corpus.revision={self.revision or 'null'} pins nothing: {self.name} may change under this name, "
                "so say which commit, corpus.revision=<40 hex digits>, as the dataset's page on the hub lists them"
            )

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the dataset, each a dict of fields."""
        self._check_pinned()
        self._snapshot.check(*self._snapshot.files)
        try:
            from datasets import load_dataset  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise CorpusError("corpus=hub needs the extra 'hub': pip install -e '.[hub]'") from None
        name, revision = (str(self._folder), None) if self._folder else (self.name, self.revision)
        try:
            yield from load_dataset(name, self.config_name, split=self.split, revision=revision, streaming=True)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise CorpusError(
                f"corpus.name={self.name} cannot be streamed ({type(error).__name__}: {reason}); "
                "offline, use corpus=text corpus.path=... instead"
            ) from None
        self._snapshot.check(*self._snapshot.files)
