"""Long documents are tokenised piece by piece, and give exactly the tokens of the whole.

A tokenizer needs about seventy times the memory of its text, so a long document goes to it in pieces that overlap. Two
neighbours are joined at a place in the middle of their overlap where the rest of the document cannot matter:

- A tokenizer that splits text into words first scans from left to right and tokenises each word by itself. Where a word
  starts in both pieces, both scans go on alike; so by induction, every word start at which we join is one of the whole
  document, and what follows it is the same.
- Byte-pair encoding that does not split (Llama's) merges neighbours into tokens of its vocabulary. If none of these has
  a space after another character, then nothing ever merges across such a place, and its two sides are independent.

What lies within a quarter of the overlap from a piece's end is never used, because that is what the end itself may
have changed: a cut word or character, a space that the tokenizer puts in front of its text. Besides, the tokens on both
sides of the join must be the same in both pieces. Where no such place is found, or with any other tokenizer, the
document is tokenised as a whole.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

PIECE = 1 << 18  # characters that the tokenizer gets at a time
OVERLAP = 1 << 14  # characters that neighbouring pieces share
_ALIKE = 16  # tokens on either side of a join that must be the same in both pieces
# A space as vocabularies spell it: as itself, sentencepiece's mark, and byte-level encoding's.
_SPACE_INSIDE = re.compile("[^ \u2581\u0120][ \u2581\u0120]")


class _Piece(NamedTuple):
    """The tokens of a part of a document."""

    ids: list[int]
    starts: list[int]  # where each token starts in the document
    words: list[int | None]  # the number of the word that each token belongs to


def token_pieces(tokenizer: Any, text: str) -> Iterator[list[int]]:
    """Yield lists of token ids that, one after the other, are the ids of the whole text, without special tokens.

    A caller that has enough stops, and the rest is not tokenised.
    """
    if len(text) <= PIECE or not getattr(tokenizer, "is_fast", False):
        yield _ids(tokenizer, text)
        return
    used = 0  # tokens that were yielded
    start, first = 0, 0  # where the piece starts, and its first token to use
    piece = _encode(tokenizer, text, start)
    while start + PIECE < len(text):
        following = _encode(tokenizer, text, start + PIECE - OVERLAP)
        join = _join(piece, following, text, start + PIECE, _keeps_spaces_apart(tokenizer))
        if join is None:
            yield _ids(tokenizer, text)[used:]
            return
        yield piece.ids[first : join[0]]
        used += join[0] - first
        piece, first, start = following, join[1], start + PIECE - OVERLAP
    yield piece.ids[first:]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _encode(tokenizer: Any, text: str, start: int) -> _Piece:
    """Tokenise the piece of the text that starts there."""
    given = text[start : start + PIECE]
    encoded = tokenizer(given, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    starts = [start + offset for offset, _ in encoded["offset_mapping"]]
    return _Piece(encoded["input_ids"], starts, encoded.word_ids(0))


def _join(left: _Piece, right: _Piece, text: str, end: int, spaces: bool) -> tuple[int, int] | None:
    """Return the first token of the right piece to use, as its index in the left and in the right piece, or None.

    Args:
        left, right: neighbouring pieces of the text.
        end: where the left piece ends in the text; the right one starts OVERLAP earlier.
        spaces: whether a space after another character is a place to join, should there be no start of a word.
    """
    shared = list(_shared_starts(left, right, end))
    words = [(i, j) for i, j in shared if left.words[i] != left.words[i - 1] and right.words[j] != right.words[j - 1]]
    if not words and spaces:
        ats = ((left.starts[i], i, j) for i, j in shared)
        words = [(i, j) for at, i, j in ats if text[at] == " " and text[at - 1] != " "]
    return next((pair for pair in words if _alike(left, right, *pair)), None)


def _shared_starts(left: _Piece, right: _Piece, end: int) -> Iterator[tuple[int, int]]:
    """Yield the index in both pieces of tokens that start at the same place in the middle of the overlap."""
    lowest, highest = end - OVERLAP * 3 // 4, end - OVERLAP // 4
    for i in range(max(1, bisect_left(left.starts, lowest)), bisect_left(left.starts, highest)):
        at = left.starts[i]
        j = bisect_left(right.starts, at)
        if 0 < j < len(right.starts) and right.starts[j] == at and left.starts[i - 1] != at:
            yield i, j


def _alike(left: _Piece, right: _Piece, i: int, j: int) -> bool:
    """Return whether the tokens around place i of the left piece are those around place j of the right one."""
    before = min(i, _ALIKE)
    return all(
        theirs[i - before : i + _ALIKE] == ours[max(0, j - before) : j + _ALIKE]
        for theirs, ours in ((left.ids, right.ids), (left.starts, right.starts))
    )


@lru_cache(maxsize=8)
def _keeps_spaces_apart(tokenizer: Any) -> bool:
    """Return whether no token of byte-pair encoding has a space after another character: see this module's head."""
    model = tokenizer.backend_tokenizer.model
    if type(model).__name__ != "BPE" or model.dropout:
        return False
    return not any(_SPACE_INSIDE.search(token) for token in tokenizer.get_vocab())
