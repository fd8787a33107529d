"""Where records come from: a folder of runs, a packed file of them, the one that ships with the project, or W&B."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from analysis.read.remote import remote_records
from analysis.read.sources import EMBEDDED, NoRunsError, Remote, Source, named
from sweep.store.records import COMPLETE, Record, iterate_records, parse_record

PACKED = ".jsonl.gz"


def data_file(name: str) -> Path:
    """A file of the package's data."""
    return Path(str(files("analysis").joinpath("data", name)))


def read_records(source: Source) -> list[Record]:
    """Every complete record of `source`, by run id.

    Args:
        source: a folder of runs, a file that `python -m analysis pack` wrote, "embedded", the one in the package, or
            runs in Weights & Biases.

    Records that cannot be read are named on standard error and left out; so are failed runs, by number.

    Raises:
        NoRunsError: no such folder or file, or no complete run in it.
    """
    found, failed = [], 0
    for place, record in _all(source):
        if record is None:
            say_unreadable(place, ValueError())
        elif record["status"] != COMPLETE:
            failed += 1
        else:
            found.append(record)
    if failed:
        print(f"note: {failed} failed run(s) left out", file=sys.stderr)
    if not found:
        raise NoRunsError(f"{named(source)}: no complete run in it; python -m sweep makes some")
    return found


def say_unreadable(place: object, error: Exception) -> None:
    print(f"warning: {place} cannot be read and is left out ({type(error).__name__})", file=sys.stderr)


def _all(source: Source) -> Iterator[tuple[str, Record | None]]:
    if isinstance(source, Remote):
        yield from remote_records(source)
        return
    path = data_file(EMBEDDED + PACKED) if str(source) == EMBEDDED else Path(source)
    if str(source) == EMBEDDED and not path.is_file():
        raise NoRunsError(f"--runs {EMBEDDED}: this copy of the project ships no records; name a folder of runs")
    if path.is_dir():
        for file, record in iterate_records(path):
            yield str(file), record
    elif path.is_file():
        yield from _packed(path)
    else:
        raise NoRunsError(f"--runs {source}: no such folder or file; python -m sweep writes records under runs/")


def _packed(path: Path) -> Iterator[tuple[str, Record | None]]:
    """A record a line. Raises NoRunsError where the file is not gzip, or ends in the middle."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                yield f"{path}, line {number}", _parsed(line)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise NoRunsError(f"--runs {path}: not a file that python -m analysis pack wrote ({error})") from None


def _parsed(line: str) -> Record | None:
    try:
        return parse_record(line)
    except ValueError:
        return None
