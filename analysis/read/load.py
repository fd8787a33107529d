"""Records read from any source: a folder of runs, a packed file, the records that ship with the project, or W&B."""

from __future__ import annotations

import gzip
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from analysis.read.remote import remote_records
from analysis.read.sources import SHIPPED, NoRunsError, Remote, Source, named
from sweep.store.records import COMPLETE, DROPPED, FAILED, Record, iterate_records, parse_record

PACKED = ".jsonl.gz"


def data_file(name: str) -> Path:
    """Return the path of a file in the package's folder `data`."""
    return Path(str(files("analysis").joinpath("data", name)))


def read_records(source: Source) -> list[Record]:
    """Return every complete record of `source`, in order of run id.

    Records that cannot be read are left out and named on standard error; failed and dropped runs are left out and
    counted there.

    Args:
        source: a folder of runs, a file that `python -m analysis pack` wrote, one of SHIPPED for a file of the
            package, or a project in Weights & Biases.

    Raises:
        NoRunsError: there is no such folder or file, or no complete run in it.
    """
    found: list[Record] = []
    ended = Counter[str]()
    for place, record in _all_records(source):
        if record is None:
            say_unreadable(place, ValueError())
        elif record["status"] != COMPLETE:
            ended[DROPPED if record["status"] == DROPPED else FAILED] += 1
        else:
            found.append(record)
    for status, count in sorted(ended.items()):
        print(f"note: {count} {status} run(s) left out", file=sys.stderr)
    if not found:
        raise NoRunsError(f"{named(source)}: no complete run in it; python -m sweep makes some")
    return found


def say_unreadable(place: object, error: Exception) -> None:
    """Say on standard error that the record at `place` cannot be read and is left out."""
    print(f"warning: {place} cannot be read and is left out ({type(error).__name__})", file=sys.stderr)


def _all_records(source: Source) -> Iterator[tuple[str, Record | None]]:
    """Yield (place, record) of every run of `source`, whatever its status; None for a record that cannot be read."""
    if isinstance(source, Remote):
        yield from remote_records(source)
        return
    shipped = str(source) in SHIPPED
    path = data_file(f"{source}{PACKED}") if shipped else Path(source)
    if shipped and not path.is_file():
        raise NoRunsError(f"--runs {source}: this copy of the project ships no records; name a folder of runs")
    if path.is_dir():
        for file, record in iterate_records(path):
            yield str(file), record
    elif path.is_file():
        yield from _packed_records(path)
    else:
        raise NoRunsError(f"--runs {source}: no such folder or file; python -m sweep writes records under runs/")


def _packed_records(path: Path) -> Iterator[tuple[str, Record | None]]:
    """Yield (place, record) of every line of a packed file; None for a line that is no record.

    Raises:
        NoRunsError: the file is not gzip, or it ends in the middle.
    """
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
