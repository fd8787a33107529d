"""Parquet files: each row is a document, in a column of text."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweep.corpus.blocks import MissingPackageError, blocks, compression
from sweep.corpus.documents import CorpusError
from sweep.corpus.reading import Reading
from sweep.corpus.rows import field_names

_ROWS = 256  # rows that are in memory at a time


def read_parquet(file: Path, reading: Reading) -> Iterator[str]:
    """Yield the text of each row of the file; nulls are left out.

    Raises:
        CorpusError: the file is no parquet file, or has no such column, or the column holds no text.
        MissingPackageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingPackageError(file, "pyarrow") from None
    try:
        with open(file, "rb") as stream:
            source = io.BytesIO(b"".join(blocks(file))) if compression(file) else stream
            table = pyarrow.parquet.ParquetFile(source)
            _check_column(pyarrow, table.schema_arrow, file, reading.text_field)
            for batch in table.iter_batches(_ROWS, columns=[reading.text_field]):
                yield from (text for text in batch.column(0).to_pylist() if text is not None)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorpusError(f"corpus.path: {file} cannot be read as parquet ({reason})") from None


def _check_column(pyarrow: Any, schema: Any, file: Path, column: str) -> None:
    """Raise CorpusError unless the schema has one column of this name, and it holds text."""
    if schema.names.count(column) != 1:
        raise CorpusError(
            f"corpus.path: {file} has no column corpus.text_field={column}; its columns are {field_names(schema.names)}"
        )
    kind = schema.field(column).type
    inner = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    is_text = (pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view)
    if not any(check(inner) for check in is_text) and not pyarrow.types.is_null(inner):
        raise CorpusError(f"corpus.path: {file}: the column corpus.text_field={column} must hold text, not {kind}")
