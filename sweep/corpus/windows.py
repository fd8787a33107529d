"""Documents are cut into windows of tokens, the pieces that the LM reads.

A window never spans two documents. A document's last window may be shorter than the others: it is padded on the right,
which a causal LM cannot see, and its padding is neither captured nor measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from sweep.corpus import pieces
from sweep.corpus.documents import Corpus, CorpusError
from sweep.store.hashes import short_hash

BOS_POLICIES = ("window", "document", "none")
_DOCUMENTS_PER_CALL = 64  # documents that the tokenizer gets at a time, if they are no longer than a piece in all


@dataclass(frozen=True, eq=False)  # compared by identity: caches are keyed by the object
class Windows:
    """A set of n windows of tokens."""

    tokens: np.ndarray  # int64 (n, length): token ids, padded on the right
    lengths: np.ndarray  # int (n,): how many tokens of each window are real

    @property
    def n_tokens(self) -> int:
        """The number of real tokens, the beginning-of-sequence tokens (BOS) included."""
        return int(self.lengths.sum())

    def mask(self) -> np.ndarray:
        """Return bool (n, length), True at real tokens."""
        return np.arange(self.tokens.shape[1]) < self.lengths[:, None]

    def digest(self) -> str:
        """Return 16 hex digits that name the windows' content."""
        return short_hash(self.tokens.shape, self.tokens.tolist(), self.lengths.tolist())


@dataclass(frozen=True)
class WindowConfig:
    """The settings by which text becomes windows.

    Args:
        length: tokens per window, the beginning-of-sequence token (BOS) included.
        bos: whether the tokenizer's BOS token opens every "document", every "window", or "none"; without effect if the
            tokenizer has no such token.

    Raises:
        CorpusError: `bos` is none of these words.
    """

    length: int
    bos: str = "document"

    def __post_init__(self):
        if self.bos not in BOS_POLICIES:
            raise CorpusError(f"corpus.bos={self.bos} must be one of {', '.join(BOS_POLICIES)}")


def train_windows(corpus: Corpus, tokenizer: Any, config: WindowConfig, n_tokens: int) -> Windows:
    """Return the first windows of the training side, with `n_tokens` real tokens in all; the last one is cut to fit.

    Raises:
        CorpusError: the training side has fewer tokens.
    """
    rows: list[np.ndarray] = []
    total = 0
    for row in _windows(corpus, tokenizer, config, held_out=False):
        row = _packed(row[: n_tokens - total])
        rows.append(row)
        total += len(row)
        if total == n_tokens:
            return _pack(rows, config.length)
    raise CorpusError(
        f"corpus.train_tokens={n_tokens} is more than the corpus holds: its training side has {total} tokens"
    )


def held_out_windows(corpus: Corpus, tokenizer: Any, config: WindowConfig, n_windows: int) -> Windows:
    """Return `n_windows` windows of held-out documents: full ones first, in the corpus's order, then shorter ones.

    Raises:
        CorpusError: the held-out side has fewer windows.
    """
    full: list[np.ndarray] = []
    short: list[np.ndarray] = []
    for row in _windows(corpus, tokenizer, config, held_out=True):
        if len(row) > 1:  # a lone token predicts nothing
            (full if len(row) == config.length else short).append(_packed(row))
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
    """Yield the token ids of each window of one side, unpadded and in the corpus's order."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    opening = bos if config.bos == "window" else []
    step = config.length - len(opening)
    for document in _tokenised(corpus, tokenizer, held_out):
        start = bos if config.bos == "document" else []
        yield from (opening + ids for ids in _cut(chain([start], document), step))


def _cut(parts: Iterable[list[int]], step: int) -> Iterator[list[int]]:
    """Yield lists of `step` ids of the parts put together; the last one may be shorter."""
    rest: list[int] = []
    for part in parts:
        ids = rest + part
        whole = len(ids) // step * step
        yield from (ids[start : start + step] for start in range(0, whole, step))
        rest = ids[whole:]
    if rest:
        yield rest


def _tokenised(corpus: Corpus, tokenizer: Any, held_out: bool) -> Iterator[Iterable[list[int]]]:
    """Yield the token ids of each document of one side, in pieces; each document is to be read before the next one.

    The tokenizer gets a few short documents at a time, and a long one piece by piece.
    """
    for texts in _batches(document.text for document in corpus.documents() if document.held_out == held_out):
        if len(texts) == 1:
            yield pieces.token_pieces(tokenizer, texts[0])
        else:
            yield from ([ids] for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of one text or several, of which several are no longer than a piece in all."""
    batch: list[str] = []
    for text in texts:
        if batch and (len(batch) == _DOCUMENTS_PER_CALL or len(text) + sum(map(len, batch)) > pieces.PIECE):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _packed(row: list[int]) -> np.ndarray:
    """Return the ids as an array, which takes a tenth of a list's memory."""
    return np.array(row, dtype=np.int32)


def _pack(rows: list[np.ndarray], length: int) -> Windows:
    """Pad the rows on the right to `length` tokens."""
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    return Windows(tokens, np.array([len(row) for row in rows]))
