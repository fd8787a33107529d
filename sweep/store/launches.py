"""The launches in a run store: which runs each launch asked for, and the present state of these runs.

A launch is one call of `python -m sweep`; its folder `<runs_dir>/launches/<name>/` describes it in `launch.json`.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sweep.store.lock_holders import Holder, find_holder
from sweep.store.records import (
    CHECKPOINT,
    COMPLETE,
    DROPPED,
    LAUNCH,
    Record,
    UnreadableError,
    drop_in_words,
    read_record,
    run_folder,
)

ALL = "all"  # what a user writes in place of a launch's name to mean everything in the run store

# Names of a run's states, beside COMPLETE and DROPPED of `sweep.store.records`.
RUNNING, FAILED, TO_DO = "running", "failed", "to do"

_REQUIRED_KEYS = {"started", "host", "pid", "command", "runs"}  # every launch.json has at least these
_NAMES_SHOWN = 5  # launch names that an error message lists at most


class LaunchNotFoundError(ValueError):
    """The launch that was asked for does not exist, or its name fits several launches."""


class Launch(NamedTuple):
    """One call of `python -m sweep`, as its folder under `launches/` describes it."""

    folder: Path
    about: dict[str, Any]  # the content of launch.json

    @property
    def runs(self) -> list[dict[str, Any]]:
        """The runs that the launch asked for: `run_id`, `title`, `axes` and `arm` of each."""
        return self.about["runs"]


class State(NamedTuple):
    """The present state of one run of a launch."""

    run_id: str
    title: str
    state: str  # COMPLETE, RUNNING, DROPPED, FAILED or TO_DO
    detail: str  # the run's result, or who works on it since when, or what ended it


def launches(runs_dir: Path) -> list[Launch]:
    """Return every launch of a run store, the oldest first; launches whose file cannot be read are left out."""
    found: list[Launch] = []
    for file in sorted(runs_dir.glob(f"launches/*/{LAUNCH}")):
        try:
            about = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(about, dict) and about.keys() >= _REQUIRED_KEYS:
            found.append(Launch(file.parent, about))
    return found


def find_launch(runs_dir: Path, name: str | None) -> Launch:
    """Return the launch whose name begins with `name`, or the latest launch where `name` is None.

    Raises:
        LaunchNotFoundError: the run store has no launch, none with such a name, or several.
    """
    known = launches(runs_dir)
    if not known:
        raise LaunchNotFoundError(f"--runs {runs_dir}: there is no launch in it; python -m sweep makes one")
    if name is None:
        return known[-1]
    fitting = [launch for launch in known if launch.folder.name.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(launch.folder.name for launch in (fitting or known)[-_NAMES_SHOWN:])
    if fitting:
        raise LaunchNotFoundError(
            f"LAUNCH {name}: the names of {len(fitting)} launches in {runs_dir} begin so, give more of the name; "
            f"the latest of them: {names}"
        )
    raise LaunchNotFoundError(
        f"LAUNCH {name}: no launch in {runs_dir} has a name that begins so; the latest launches: {names}"
    )


def states(launch: Launch, runs_dir: Path) -> list[State]:
    """Return the present state of every run of the launch, in the launch's order."""
    return [_state(runs_dir, run, launch.about["started"]) for run in launch.runs]


def _state(runs_dir: Path, run: dict[str, Any], started: str) -> State:
    """Return the state of one run; `started` is the ISO time at which its launch began."""
    run_id, title = run["run_id"], run["title"]
    folder = run_folder(runs_dir, run_id)
    try:
        record, holder = read_record(runs_dir, run_id), find_holder(folder)
    except UnreadableError as error:
        return State(run_id, title, FAILED, str(error))
    if holder is not None:
        return State(run_id, title, RUNNING, _holder_in_words(holder))
    if record is None:
        return State(run_id, title, TO_DO, "has a checkpoint" if (folder / CHECKPOINT).exists() else "")
    if record["status"] == COMPLETE:
        return State(run_id, title, COMPLETE, _result_in_words(record))
    before = datetime.fromisoformat(record["finished"]) < datetime.fromisoformat(started)  # this launch tries it again
    if record["status"] == DROPPED:
        why = drop_in_words(record)
        return State(run_id, title, TO_DO if before else DROPPED, f"before: {why}" if before else why)
    error = record.get("error", "unknown error")
    return State(run_id, title, TO_DO if before else FAILED, f"failed before: {error}" if before else error)


def _holder_in_words(holder: Holder) -> str:
    """Return, for example, `training, node3 pid 4242 since 14:05:10 (3 min ago)`."""
    where = f"{holder.host} pid {holder.pid}" if holder.host else "another process"
    since = f" since {_local_time(holder.since)}" if holder.since else ""
    return f"{holder.stage or 'starting'}, {where}{since}"


def _local_time(iso: str) -> str:
    """Return an ISO time in local time and how long ago it was: `14:05:10 (3 min ago)`."""
    then = datetime.fromisoformat(iso)
    minutes = (datetime.now(UTC) - then).total_seconds() / 60
    ago = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    return f"{then.astimezone():%H:%M:%S} ({ago} ago)"


def _result_in_words(record: Record) -> str:
    """Return, for example, `CE recovered 0.9877, 12 s`; the features found or only the time for those without it."""
    metrics, seconds = record["metrics"], f"{record['timings']['total']:.0f} s"
    if "coverage" in metrics:
        return f"features found {metrics['coverage']:.3f}, {seconds}"
    if "ce_recovered" not in metrics:
        return seconds
    recovered = metrics["ce_recovered"]
    return f"CE recovered {'undefined' if recovered is None else f'{recovered:.4f}'}, {seconds}"


def add_launch(parser: argparse.ArgumentParser, for_all: str) -> None:
    """Add to `parser` the arguments LAUNCH and --runs, which say which launch of which run store is meant.

    Args:
        for_all: what the word `all` in place of a launch's name is for, as the help says it: "for every run".
    """
    explained = f"a launch's name, or how it begins (default: the latest); `{ALL}` {for_all}"
    parser.add_argument("launch", nargs="?", metavar="LAUNCH", help=explained)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the run store (default: runs)")
