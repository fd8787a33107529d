"""JSON lines: each line is an object, and one of its keys holds a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweep.corpus.blocks import blocks
from sweep.corpus.decoding import decoded, split_at
from sweep.corpus.documents import CorpusError
from sweep.corpus.reading import Reading
from sweep.corpus.rows import field_names, text_of


def read_jsonl(file: Path, reading: Reading) -> Iterator[str]:
    """Yield the text of each line of the file; blank lines and null texts are left out.

    Raises:
        CorpusError: a line is not a JSON object, has no such key, or holds no text under it; or the errors of `blocks`
            and `decoded`.
    """
    for number, line in enumerate(split_at(decoded(blocks(file), file, reading.encoding), "\n"), 1):
        if line.strip():
            where = f"corpus.path: {file}, line {number}"
            row = _row(line, where)
            if reading.text_field not in row:
                raise CorpusError(
                    f"{where} has no key corpus.text_field={reading.text_field}; its keys are {field_names(row)}"
                )
            if (text := text_of(row[reading.text_field], where, reading.text_field)) is not None:
                yield text


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(f"{where} is not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of too many digits, or too many brackets
        raise CorpusError(f"{where} is not JSON that can be read ({type(error).__name__})") from None
    if not isinstance(row, dict):
        raise CorpusError(f"{where} is not a JSON object with keys but a {type(row).__name__}")
    return row
