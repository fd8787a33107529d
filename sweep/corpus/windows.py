"""Documents -> token windows of fixed length.

A window never spans two documents. A document's last window may be shorter: it is padded on the right, which a
causal LM cannot see, and its padding is neither captured nor measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.corpus.documents import Corpus, CorpusError
from sweep.store.hashes import short_hash

BOS_POLICIES = ("window", "document", "none")
_DOCUMENTS_PER_CALL = 64  # tokenised together


@dataclass(frozen=True, eq=False)  # one object is one set of windows: caches are keyed by it
class Windows:
    """Token ids (n, length) int64, padded on the right, and how many of each row are real: lengths (n,)."""

    tokens: np.ndarray
    lengths: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Real tokens, BOS included."""
        return int(self.lengths.sum())

    def mask(self) -> np.ndarray:
        """True at real tokens: (n, length)."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def digest(self) -> str:
        """16 hex digits that name this content."""
        return short_hash(self.tokens.shape, self.tokens.tolist(), self.lengths.tolist())


@dataclass(frozen=True)
class WindowConfig:
    """How text becomes windows.

    Args:
        length: tokens per window, BOS included.
        bos: whether the tokenizer's beginning-of-sequence token opens every "document", every "window", or "none";
            without effect where the tokenizer has none.
    """

    length: int
    bos: str = "document"

    def __post_init__(self):
        if self.bos not in BOS_POLICIES:
            raise CorpusError(f"corpus.bos={self.bos} must be one of {', '.join(BOS_POLICIES)}")


def train_windows(corpus: Corpus, tokenizer: Any, config: WindowConfig, n_tokens: int) -> Windows:
    """The first windows of the training side that hold `n_tokens` tokens, the last one cut to fit.

    Raises:
        CorpusError: the training side is smaller than that.
    """
    rows: list[list[int]] = []
    total = 0
    for row in _windows(corpus, tokenizer, config, held_out=False):
        row = row[: n_tokens - total]
        rows.append(row)
        total += len(row)
        if total == n_tokens:
            return _pack(rows, config.length)
    raise CorpusError(
        f"corpus.train_tokens={n_tokens} is more than the corpus holds: its training side has {total} tokens"
    )


def held_out_windows(corpus: Corpus, tokenizer: Any, config: WindowConfig, n_windows: int) -> Windows:
    """`n_windows` windows of held-out documents: full ones first, in the corpus's order, then shorter ones.

    Raises:
        CorpusError: the held-out side is smaller than that.
    """
    full: list[list[int]] = []
    short: list[list[int]] = []
    for row in _windows(corpus, tokenizer, config, held_out=True):
        if len(row) > 1:  # a lone token predicts nothing
            (full if len(row) == config.length else short).append(row)
        if len(full) == n_windows:
            return _pack(full, config.length)
    rows = (full + short)[:n_windows]
    if len(rows) < n_windows:
        raise CorpusError(
            f"eval.windows={n_windows} is more than the corpus holds: its held-out side has {len(rows)} windows "
            f"of at most {config.length} tokens"
        )
    return _pack(rows, config.length)


def _windows(corpus: Corpus, tokenizer: Any, config: WindowConfig, held_out: bool) -> Iterator[list[int]]:
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    opening = bos if config.bos == "window" else []
    for ids in _tokenised(corpus, tokenizer, held_out):
        if config.bos == "document":
            ids = bos + ids
        step = config.length - len(opening)
        for start in range(0, len(ids), step):
            yield opening + ids[start : start + step]


def _tokenised(corpus: Corpus, tokenizer: Any, held_out: bool) -> Iterator[list[int]]:
    """Token ids of each document of one side, tokenised a few documents at a time."""
    pending: list[str] = []
    for document in corpus.documents():
        if document.held_out == held_out:
            pending.append(document.text)
        if len(pending) == _DOCUMENTS_PER_CALL:
            yield from tokenizer(pending, add_special_tokens=False, verbose=False)["input_ids"]
            pending = []
    if pending:
        yield from tokenizer(pending, add_special_tokens=False, verbose=False)["input_ids"]


def _pack(rows: list[list[int]], length: int) -> Windows:
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return Windows(tokens, np.array([len(row) for row in rows]))
