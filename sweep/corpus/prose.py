"""English prose that a package on PyPI brings: news and reviews, without a hub and without an account."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from sae_core.hashed import later_fields
from sweep.corpus.documents import CorpusError, Document, check_fraction, tidy, unit_hash
from sweep.corpus.files import Snapshot
from sweep.store.hashes import short_hash

# Those of the package's sets that are whole texts of some length: news articles, and reviews of places to eat and shop.
_FILES = ("100_news_fake.csv.zst", "111_yelp_data.csv.zst")
_LONGEST = 8192  # characters at which the package cuts texts


@dataclass(frozen=True, eq=False)  # compared by identity: caches are keyed by the object
class ProseCorpus:
    """News articles and Yelp reviews out of the package sae-probes, split by the hash of each text.

    sae-probes (MIT) is the benchmark of "Are Sparse Autoencoders Useful?" (Kantamneni et al., 2025), which gathered
    labelled texts; its README and METADATA state no other licence for them. Its own table of sources says where these
    come from: the news from Kaggle's "fake and real news dataset" (clmentbisaillon), real ones by Reuters, the reviews
    from the Hugging Face dataset Yelp/yelp_review_full. The labels are not read.

    These are 6,869 documents of 1,891,862 tokens by SmolLM2's tokenizer (1,887 articles with 1,012,191 tokens, 4,982
    reviews with 879,671), half of them longer than 170 tokens; by default 678 of them, 189,305 tokens, are held out.
    Articles that the package cut are left out, and what the reviews spell as \\n, \\" and \\u00e9 is written out.

    Args:
        held_out_fraction: about the share of texts that are held out.
        folder: the folder to read in place of the installed package's `data/cleaned_data`.

    Raises:
        CorpusError: the fraction is not between 0 and 1, or (when read) sae-probes or zstandard is not installed, or
            the package's files are not those of version 0.4.2.
    """

    held_out_fraction: float = 0.1
    folder: str | None = None

    def __post_init__(self):
        check_fraction(self.held_out_fraction)

    @property
    def label(self) -> str:
        """The text's name in figures and records."""
        return "prose"

    def documents(self) -> Iterator[Document]:
        return iter(self._documents)

    def fingerprint(self, cache_dir: Path) -> str:
        content = self._snapshot.hash(_FILES, cache_dir)
        return short_hash("prose", content, self.held_out_fraction, *later_fields(self))

    @cached_property
    def _snapshot(self) -> Snapshot:
        folder = Path(self.folder).expanduser() if self.folder else package_folder()
        files = [folder / name for name in _FILES]
        for file in files:
            if not file.is_file():
                raise CorpusError(
                    f"corpus=prose: {file} is missing; sae-probes 0.4.2 has it: `make smollm2` installs it"
                )
        return Snapshot(files, "corpus=prose")

    @cached_property
    def _documents(self) -> list[Document]:
        # The order of the hashes mixes news and reviews.
        texts = sorted({text for file in self._snapshot.each() for text in _texts(file)}, key=unit_hash)
        return [Document(f"{i:06d}", t, unit_hash("prose:" + t) < self.held_out_fraction) for i, t in enumerate(texts)]


def package_folder() -> Path:
    """Return the folder with the texts of the installed sae-probes, which is found without importing it."""
    package = find_spec("sae_probes")
    if package is None or package.origin is None or find_spec("zstandard") is None:
        raise CorpusError("corpus=prose needs the packages sae-probes and zstandard; `make smollm2` installs them")
    return Path(package.origin).parent / "data" / "cleaned_data"


def _texts(file: Path) -> Iterator[str]:
    """Yield the texts in one of the package's tables."""
    import pandas as pd  # here because it takes a while to load

    try:
        column = pd.read_csv(file, usecols=["prompt"], dtype=str, keep_default_na=False)["prompt"]
    except Exception as error:  # pandas, its parser and the decompressor have errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorpusError(
            f"corpus=prose: {file} cannot be read ({reason}); sae-probes 0.4.2 has it whole: `make smollm2`"
        ) from None
    yield from filter(None, (tidy(_unescaped(text)) for text in column if len(text) < _LONGEST))


def _unescaped(text: str) -> str:
    """Return the text with the newlines, quotation marks and accented letters that the reviews spell out."""
    text = text.replace("\\n", "\n").replace('\\""', '"').replace('\\"', '"')
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)
