"""Records read from Weights & Biases, where each run has its record as a file, the same as in the run's own folder.

Runs are listed in pages; a record is downloaded once, and again only when the run has been written to since.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from analysis.read.sources import URL, NoRunsError, Remote
from sweep.store.records import RECORD, Record, parse_record

_PAGE_SIZE = 100  # runs a request
_DOWNLOADS_AT_ONCE = 8
_TIMEOUT = 30  # seconds that the server has for an answer


def remote_records(source: Remote) -> Iterator[tuple[str, Record | None]]:
    """Yield (web address, record) of each run that has a record, in order of run id; None for an unreadable record.

    Raises:
        NoRunsError: there is no such project, no run of these groups, or no answer from the server.
    """
    import wandb

    _check_project(source.project)
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        api = wandb.Api(timeout=_TIMEOUT)
        wanted = {"group": {"$in": list(source.groups)}} if source.groups else None
        runs = sorted(api.runs(source.project, filters=wanted, per_page=_PAGE_SIZE), key=lambda run: run.id)
        folder = _cache_folder(source, api.settings["base_url"])
        with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
            texts = list(pool.map(lambda run: _record_text(run, folder), runs))
    except Exception as error:  # the client raises its own errors and those of its parts, without a common base
        raise NoRunsError(f"--wandb {source}: {' '.join(str(error).split())}") from None
    if not runs:
        raise NoRunsError(f"--wandb {source}: no run of it there")
    without = sum(text is None for text in texts)
    if without:
        reason = "not finished, or not of this project's sweeps"
        print(f"note: {without} run(s) of {source} without a {RECORD} left out: {reason}", file=sys.stderr)
    for run, text in zip(runs, texts, strict=True):
        if text is not None:
            yield run.url, _parsed(text, run.url)


def _check_project(project: str) -> None:
    """Raise NoRunsError unless `project` has the form ENTITY/PROJECT."""
    if len([part for part in project.split("/") if part]) != 2 or project.count("/") != 1:
        raise NoRunsError(f"--wandb {project}: must be ENTITY/PROJECT")


def _cache_folder(source: Remote, server: str) -> Path:
    """Return the folder that keeps the project's records; a hash tells it from the same name on another server."""
    return source.cache / f"{source.project.replace('/', '-')}-{sha256(server.encode()).hexdigest()[:8]}"


def _record_text(run: Any, folder: Path) -> str | None:
    """Return the text of a W&B run's record, from `folder` or downloaded into it; None where the run has no record."""
    last_write = sha256(str(run.heartbeat_at).encode()).hexdigest()[:8]
    kept = folder / f"{run.id}-{last_write}.json"
    if kept.is_file():
        return kept.read_text()
    files = list(run.files([RECORD]))
    if not files:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        with files[0].download(root=fresh) as stream:
            text = stream.read()
        os.replace(Path(fresh, RECORD), kept)
    for older in folder.glob(f"{run.id}-*.json"):
        if older != kept:
            older.unlink(missing_ok=True)
    return text


def _parsed(text: str, url: str) -> Record | None:
    try:
        return {**parse_record(text), URL: url}
    except ValueError:
        return None
