"""Text as documents, each on one side of the train / held-out split.

A corpus is an object with two methods: `documents()` yields `Document`s, and `fingerprint(cache_dir)` names its
content in a short hash. The split is by document, never by token, and a held-out document whose text also occurs
in training is dropped, so no evaluation text is training text. `sweep.corpus.windows` turns documents into tokens.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sweep.store.hashes import remembered_hash, short_hash


class CorpusError(ValueError):
    """The text asked for is missing, empty or too small."""


@dataclass(frozen=True)
class Document:
    """One text that is never cut across the split."""

    name: str
    text: str
    held_out: bool


class Corpus(Protocol):
    """What every corpus offers. `documents` gives the same order on every call, one that mixes the text's parts."""

    def documents(self) -> Iterator[Document]: ...

    def fingerprint(self, cache_dir: Path) -> str: ...


def unit_hash(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone: the same on every machine and Python version."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _check_fraction(held_out_fraction: float) -> None:
    if not 0 < held_out_fraction < 1:
        raise CorpusError(f"corpus.held_out_fraction={held_out_fraction} must lie between 0 and 1, both excluded")


def without_copies(documents: list[Document]) -> list[Document]:
    """Drop every document whose exact text came before, a held-out one also when training has it anywhere."""
    seen = {hashlib.sha256(d.text.encode()).digest() for d in documents if not d.held_out}
    kept: list[Document] = []
    once: set[bytes] = set()
    for document in documents:
        key = hashlib.sha256(document.text.encode()).digest()
        if key in once or (document.held_out and key in seen):
            continue
        once.add(key)
        kept.append(document)
    return kept


class StdlibCorpus:
    """The `.py` files of the running interpreter's standard library, split by the hash of their path.

    The path decides the side, so a file that was held out when the embedded LM was trained is held out under
    every other Python version too.
    """

    _LEFT_OUT = {"site-packages", "dist-packages", "__pycache__"}

    def __init__(self, held_out_fraction: float = 0.05, root: str | None = None):
        _check_fraction(held_out_fraction)
        self._fraction = held_out_fraction
        self._root = Path(root or sysconfig.get_path("stdlib"))
        self._documents: list[Document] | None = None

    def documents(self) -> Iterator[Document]:
        if self._documents is None:
            self._documents = without_copies(list(self._read()))
            if not self._documents:
                raise CorpusError(f"no .py files under the standard library's folder {self._root}")
        return iter(self._documents)

    def fingerprint(self, cache_dir: Path) -> str:
        files = self._files()
        if not files:
            raise CorpusError(f"no .py files under the standard library's folder {self._root}")
        content = remembered_hash(list(files.values()), list(files), cache_dir)
        return short_hash("stdlib", content, self._fraction)

    def _files(self) -> dict[str, Path]:
        """Relative name -> path."""
        found: dict[str, Path] = {}
        for folder, subfolders, names in os.walk(self._root):
            subfolders[:] = [s for s in subfolders if s not in self._LEFT_OUT]
            for name in names:
                # _sysconfigdata is written by each machine's own build of Python.
                if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                    path = Path(folder, name)
                    found[path.relative_to(self._root).as_posix()] = path
        return {name: found[name] for name in sorted(found, key=unit_hash)}

    def _read(self) -> Iterator[Document]:
        for name, path in self._files().items():
            try:
                text = path.read_bytes().decode("utf-8")
            except (UnicodeDecodeError, OSError):  # the test suite holds files that are broken on purpose
                continue
            if text.strip():
                yield Document(name, text, unit_hash("stdlib:" + name) < self._fraction)


class TextCorpus:
    """Text files (a path or a glob), cut into documents at `separator`, in which \\n and \\t may be spelled out.

    The split ranks documents by the hash of their text and holds out the first `held_out_fraction` of them, at
    least one, so that even a handful of documents has both sides.
    """

    def __init__(self, path: str, separator: str = "<|endoftext|>", held_out_fraction: float = 0.1):
        _check_fraction(held_out_fraction)
        if not path:
            raise CorpusError("corpus.path is not set: give a text file or a glob, for example corpus.path=book.txt")
        if not separator:
            raise CorpusError("corpus.separator='' must be at least one character: it marks where documents end")
        separator = separator.replace("\\n", "\n").replace("\\t", "\t")  # a shell has no easy way to pass these
        self._path, self._separator, self._fraction = path, separator, held_out_fraction
        self._documents: list[Document] | None = None

    def documents(self) -> Iterator[Document]:
        if self._documents is None:
            self._documents = self._split(list(self._read()))
        return iter(self._documents)

    def fingerprint(self, cache_dir: Path) -> str:
        files = [Path(f) for f in self._files()]
        content = remembered_hash(files, [str(i) for i in range(len(files))], cache_dir)
        return short_hash("text", content, self._separator, self._fraction)

    def _files(self) -> list[str]:
        expanded = os.path.expanduser(self._path)
        files = [expanded] if os.path.isfile(expanded) else sorted(glob.glob(expanded, recursive=True))
        files = [f for f in files if os.path.isfile(f)]
        if not files:
            raise CorpusError(f"corpus.path={self._path} matches no file")
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
            yield from (piece.strip() for piece in text.split(self._separator) if piece.strip())

    def _split(self, texts: list[str]) -> list[Document]:
        texts = list(dict.fromkeys(texts))
        if len(texts) < 2:
            raise CorpusError(
                f"corpus.path={self._path} holds {len(texts)} distinct document(s) when split at "
                f"corpus.separator={self._separator!r}; train and held-out need at least 2"
            )
        ranked = sorted(texts, key=unit_hash)
        n_held_out = min(len(ranked) - 1, max(1, round(self._fraction * len(ranked))))
        return [Document(f"{i:06d}", text, i < n_held_out) for i, text in enumerate(ranked)]


class HubCorpus:
    """A dataset streamed through `datasets` (extra `hub`), split by the hash of each text.

    `documents()` opens the stream anew, so a caller that has enough tokens stops reading and nothing more is
    downloaded. The fingerprint is that of the asked revision: a streamed corpus cannot be hashed beforehand.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        revision: str | None = None,
        text_field: str = "text",
        config_name: str | None = None,
        held_out_fraction: float = 0.1,
    ):
        _check_fraction(held_out_fraction)
        self._name, self._split, self._revision = name, split, revision
        self._text_field, self._config_name, self._fraction = text_field, config_name, held_out_fraction

    def documents(self) -> Iterator[Document]:
        seen: set[bytes] = set()
        for i, row in enumerate(self._stream()):
            if self._text_field not in row:
                raise CorpusError(f"corpus.text_field={self._text_field} is not one of {sorted(row)} in {self._name}")
            text = row[self._text_field]
            key = hashlib.sha256(text.encode()).digest()
            if text.strip() and key not in seen:
                seen.add(key)
                yield Document(f"{i:09d}", text, unit_hash(text) < self._fraction)

    def fingerprint(self, cache_dir: Path) -> str:
        return short_hash(
            "hub", self._name, self._config_name, self._split, self._revision, self._text_field, self._fraction
        )

    def _stream(self):
        try:
            from datasets import load_dataset  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise CorpusError("corpus=hub needs the extra 'hub': pip install -e '.[hub]'") from None
        try:
            return load_dataset(
                self._name, self._config_name, split=self._split, revision=self._revision, streaming=True
            )
        except Exception as error:
            raise CorpusError(
                f"corpus.name={self._name} cannot be streamed ({type(error).__name__}: {str(error).splitlines()[0]}); "
                "offline, use corpus=text corpus.path=... instead"
            ) from None
