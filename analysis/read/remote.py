"""Records read back from Weights & Biases: each run there has its record as a file, the same that its folder has.

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

_PAGE = 100  # runs a request
_AT_ONCE = 8  # downloads
_PATIENCE = 30  # seconds for an answer


def remote_records(source: Remote) -> Iterator[tuple[str, Record | None]]:
    """(address, record) of each run that has a record, in order of run id; None for one that cannot be read.

    Raises:
        NoRunsError: no such project, no run of these groups, or no answer from the server.
    """
    import wandb

    _check(source.project)
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        api = wandb.Api(timeout=_PATIENCE)
        wanted = {"group": {"$in": list(source.groups)}} if source.groups else None
        runs = sorted(api.runs(source.project, filters=wanted, per_page=_PAGE), key=lambda run: run.id)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            texts = list(pool.map(lambda run: _text(run, _folder(source, api.settings["base_url"])), runs))
    except Exception as error:  # the client raises errors of its own and of its parts, without a common base
        raise NoRunsError(f"--wandb {source}: {' '.join(str(error).split())}") from None
    if not runs:
        raise NoRunsError(f"--wandb {source}: no run of it there")
    without = sum(text is None for text in texts)
    if without:
        print(f"note: {without} run(s) of {source} without a {RECORD} left out: not finished, or not ours",
              file=sys.stderr)  # fmt: skip
    for run, text in zip(runs, texts, strict=True):
        if text is not None:
            yield run.url, _parsed(text, run.url)


def _check(project: str) -> None:
    if len([part for part in project.split("/") if part]) != 2 or project.count("/") != 1:
        raise NoRunsError(f"--wandb {project}: must be ENTITY/PROJECT")


def _folder(source: Remote, server: str) -> Path:
    """Where records of this project are kept: its name, and what tells it from one of another server."""
    return source.cache / f"{source.project.replace('/', '-')}-{sha256(server.encode()).hexdigest()[:8]}"


def _text(run: Any, folder: Path) -> str | None:
    """The record of a W&B run, None where it has none."""
    written = sha256(str(run.heartbeat_at).encode()).hexdigest()[:8]
    kept = folder / f"{run.id}-{written}.json"
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
