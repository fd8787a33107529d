"""A store of runs as one small file: what figures read, a record a line, the same bytes each time."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from analysis.read.load import read_records
from analysis.read.sources import Source
from sweep.store.records import Record

DIGITS = 7  # significant; a float32 has no more
_DROPPED = ("config",)  # the launch's own paths and options: no figure reads them


def pack(source: Source, out: Path) -> int:
    """Write every complete record of `source` to `out`; returns how many.

    Sorted by run id, keys sorted, no time in the gzip header: the same records give the same file.

    Raises:
        NoRunsError: as `read_records`.
        OSError: `out` cannot be written.
    """
    records = sorted(read_records(source), key=lambda record: record["run_id"])
    lines = [json.dumps(compact(record), sort_keys=True, separators=(",", ":")) + "\n" for record in records]
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "wb") as stream, gzip.GzipFile("", "wb", 9, stream, mtime=0) as packed:
        packed.write("".join(lines).encode())
    return len(records)


def compact(record: Record) -> Record:
    """The record without `config`, its floats rounded to DIGITS significant digits."""
    return {key: _rounded(value) for key, value in record.items() if key not in _DROPPED}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return value
