"""A dataset of the Hugging Face hub as a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sae_core.hashed import later_fields
from sweep.corpus.documents import CorpusError, Document, check_fraction, unit_hash
from sweep.store.hashes import short_hash


@dataclass(frozen=True, eq=False)  # compared by identity: caches are keyed by the object
class HubCorpus:
    """A dataset of the Hugging Face hub, streamed through `datasets` (extra `hub`), split by the hash of each text.

    `documents()` opens the stream anew; a caller that has enough tokens stops reading, and nothing more is downloaded.
    The fingerprint is a hash of the settings, the revision among them: a stream cannot be hashed beforehand.

    Args:
        name, split, revision, config_name: which dataset, as `datasets.load_dataset` takes them.
        text_field: the field of a row that holds the text.
        held_out_fraction: about the share of texts that are held out.

    Raises:
        CorpusError: the fraction is not between 0 and 1, or (when read) `datasets` is not installed, the dataset cannot
            be streamed, or its rows have no such field.
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
        return f"hub:{Path(self.name).name}"

    def documents(self) -> Iterator[Document]:
        seen: set[bytes] = set()
        for i, row in enumerate(self._stream()):
            if self.text_field not in row:
                raise CorpusError(
                    f"corpus.text_field={self.text_field} is not one of the fields of {self.name}: "
                    f"{', '.join(sorted(row))}"
                )
            text = row[self.text_field]
            key = hashlib.sha256(text.encode()).digest()
            if text.strip() and key not in seen:
                seen.add(key)
                yield Document(f"{i:09d}", text, unit_hash(text) < self.held_out_fraction)

    def fingerprint(self, cache_dir: Path) -> str:
        dataset = (self.name, self.config_name, self.split, self.revision, self.text_field)
        return short_hash("hub", *dataset, self.held_out_fraction, *later_fields(self))

    def _stream(self):
        """Open the dataset: an iterator of rows, each a dict of fields."""
        try:
            from datasets import load_dataset  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise CorpusError("corpus=hub needs the extra 'hub': pip install -e '.[hub]'") from None
        try:
            return load_dataset(self.name, self.config_name, split=self.split, revision=self.revision, streaming=True)
        except Exception as error:
            raise CorpusError(
                f"corpus.name={self.name} cannot be streamed ({type(error).__name__}: {str(error).splitlines()[0]}); "
                "offline, use corpus=text corpus.path=... instead"
            ) from None
