"""Text as documents, each on one side of the train / held-out split.

The split is by document, never by token, and a held-out document whose text also occurs in training is dropped, so no
evaluation text is training text. Each kind of corpus has a module of its own; `sweep.corpus.windows` turns documents
into tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_LONGEST_LABEL = 64  # of a tag in Weights & Biases


class CorpusError(ValueError):
    """The text asked for is missing, cannot be read, is empty or too small, or changes under our hands."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text that lies as a whole on one side of the split."""

    name: str
    text: str
    held_out: bool  # it is for evaluation; else for training


class Corpus(Protocol):
    """The methods that every corpus has."""

    @property
    def label(self) -> str:
        """The text's name in figures and records: at most 64 characters."""
        ...

    def documents(self) -> Iterator[Document]:
        """Yield the documents in an order that is the same on every call and mixes the text's parts."""
        ...

    def fingerprint(self, cache_dir: Path) -> str:
        """Return a short hash that names the corpus's content and split; `cache_dir` keeps remembered hashes."""
        ...


def unit_hash(key: str) -> float:
    """Return a number in [0, 1) that depends on `key` alone: it is the same on every machine and Python version."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def check_fraction(held_out_fraction: float) -> None:
    """Raise CorpusError unless the fraction leaves text on both sides of the split."""
    if not 0 < held_out_fraction < 1:
        raise CorpusError(f"corpus.held_out_fraction={held_out_fraction} must lie between 0 and 1, both excluded")


def label_of(kind: str, name: str) -> str:
    """Return `kind:name` in printable characters, without the start of a name that is too long."""
    printable = "".join(c if c.isprintable() else "?" for c in name)
    room = _LONGEST_LABEL - len(kind) - 1
    return f"{kind}:{printable if len(printable) <= room else '...' + printable[3 - room :]}"


def tidy(text: str) -> str:
    """Return the text without the white space around it and with plain newlines, which is how files are read too.

    Half of a surrogate pair, which JSON can spell and UTF-8 cannot, becomes the replacement character U+FFFD.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def without_copies(documents: list[Document]) -> list[Document]:
    """Return the documents without those whose exact text came before.

    A held-out document is dropped also if a training document anywhere has its text.
    """
    training = {hashlib.sha256(d.text.encode()).digest() for d in documents if not d.held_out}
    kept: list[Document] = []
    seen: set[bytes] = set()
    for document in documents:
        key = hashlib.sha256(document.text.encode()).digest()
        if key in seen or (document.held_out and key in training):
            continue
        seen.add(key)
        kept.append(document)
    return kept
