"""Launches as the run store has them: which runs each asked for, and how these stand now. Standard library only."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sweep.store.owners import Holder, running
from sweep.store.records import CHECKPOINT, COMPLETE, LAUNCH, Record, read_record, run_folder

ALL = "all"  # in place of a launch's name


RUNNING, FAILED, TO_DO = "running", "failed", "to do"


_SAID = {"started", "host", "pid", "command", "runs"}  # by a launch's own file


class StatusError(ValueError):
    """There is no such launch."""


class Launch(NamedTuple):
    """A launch as its own folder tells it."""

    folder: Path
    about: dict[str, Any]

    @property
    def runs(self) -> list[dict[str, Any]]:
        return self.about["runs"]


class State(NamedTuple):
    """Of one run."""

    run_id: str
    title: str
    state: str
    detail: str  # its result, who is at it since when, or why it failed


def launches(runs_dir: Path) -> list[Launch]:
    """Every launch of a run store, the oldest first; those that cannot be read are left out."""
    found: list[Launch] = []
    for file in sorted(runs_dir.glob(f"launches/*/{LAUNCH}")):
        try:
            about = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(about, dict) and about.keys() >= _SAID:
            found.append(Launch(file.parent, about))
    return found


def find_launch(runs_dir: Path, name: str | None) -> Launch:
    """The launch whose name begins with `name`, or the latest. Raises StatusError where there is none, or several."""
    known = launches(runs_dir)
    if not known:
        raise StatusError(f"--runs {runs_dir}: no launch in it; python -m sweep makes some")
    if name is None:
        return known[-1]
    fitting = [launch for launch in known if launch.folder.name.startswith(name)]
    if len(fitting) != 1:
        names = ", ".join(launch.folder.name for launch in (fitting or known)[-5:])
        raise StatusError(f"{name}: {len(fitting)} launches of {runs_dir} begin so; the last are {names}")
    return fitting[0]


def states(launch: Launch, runs_dir: Path) -> list[State]:
    """Of every run of the launch, as the run store has them now."""
    return [_state(runs_dir, run, launch.about["started"]) for run in launch.runs]


def _state(runs_dir: Path, run: dict[str, Any], started: str) -> State:
    run_id, title = run["run_id"], run["title"]
    folder = run_folder(runs_dir, run_id)
    record, owner = read_record(runs_dir, run_id), running(folder)
    if owner is not None:
        return State(run_id, title, RUNNING, _said_by(owner))
    if record is None:
        return State(run_id, title, TO_DO, "has a checkpoint" if (folder / CHECKPOINT).exists() else "")
    if record["status"] != COMPLETE:
        error = record.get("error", "unknown error")
        before = datetime.fromisoformat(record["finished"]) < datetime.fromisoformat(started)
        return State(run_id, title, TO_DO, f"failed before: {error}") if before else State(run_id, title, FAILED, error)
    return State(run_id, title, COMPLETE, _result(record))


def _said_by(owner: Holder) -> str:
    where = f"{owner.host} pid {owner.pid}" if owner.host else "another process"
    since = f" since {_clock(owner.since)}" if owner.since else ""
    return f"{owner.stage or 'starting'}, {where}{since}"


def _clock(iso: str) -> str:
    """`14:05:10 (3 min ago)` in local time."""
    then = datetime.fromisoformat(iso)
    minutes = (datetime.now(UTC) - then).total_seconds() / 60
    ago = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    return f"{then.astimezone():%H:%M:%S} ({ago})"


def _result(record: Record) -> str:
    recovered = record["metrics"].get("ce_recovered")
    seconds = f"{record['timings']['total']:.0f} s"
    return seconds if recovered is None else f"CE recovered {recovered:.4f}, {seconds}"


def add_launch(parser: argparse.ArgumentParser, all_is: str) -> None:
    """The arguments that say which launch of which run store; `all_is`: what the word ALL is for."""
    said = f"a launch's name, or how it begins (default: the latest); `{ALL}` {all_is}"
    parser.add_argument("launch", nargs="?", help=said)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the run store (default: runs)")
