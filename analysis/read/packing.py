"""Packed files: all records of a run store in one small file, one record a line, without parts that no figure reads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from analysis.read.load import read_records
from analysis.read.sources import Source
from sweep.store.records import Record

DIGITS = 7  # significant digits of each float that is kept; a float32 has no more
_DROPPED = ("config",)  # the paths and options of the launch, which no figure reads


def pack(source: Source, out: Path) -> int:
    """Write every complete record of `source` to the file `out` and return how many there are.

    Records are sorted by run id, their keys are sorted too, and the gzip header holds no time: the same records give
    the same bytes.

    Raises:
        NoRunsError: there is no such source, or no complete run in it.
        OSError: `out` cannot be written.
    """
    records = sorted(read_records(source), key=lambda record: record["run_id"])
    lines = [json.dumps(compact(record), sort_keys=True, separators=(",", ":")) + "\n" for record in records]
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "wb") as stream, gzip.GzipFile("", "wb", 9, stream, mtime=0) as packed:
        packed.write("".join(lines).encode())
    return len(records)


def compact(record: Record) -> Record:
    """Return the record without `config`, its floats rounded to DIGITS significant digits."""
    return {key: _rounded(value) for key, value in record.items() if key not in _DROPPED}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return value
