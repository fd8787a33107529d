"""Plain text files: documents end at a separator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sweep.corpus.blocks import blocks
from sweep.corpus.decoding import decoded, split_at
from sweep.corpus.reading import Reading


def read_plain(file: Path, reading: Reading) -> Iterator[str]:
    """Yield the texts between the separators of a text file. Raises the errors of `blocks` and `decoded`."""
    return split_at(decoded(blocks(file), file, reading.encoding), reading.separator)
