"""`python -m sweep.status [LAUNCH] [--watch]`: what of a sweep is finished, running, failed and still to do."""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.store.owners import Owner, running
from sweep.store.records import CHECKPOINT, COMPLETE, LAUNCH, Record, read_record, run_folder

ALL = "all"  # in place of a launch's name
RUNNING, FAILED, TO_DO = "running", "failed", "to do"
_SAID = {"started", "host", "pid", "command", "runs"}  # by a launch's own file
_STATES = (COMPLETE, RUNNING, FAILED, TO_DO)
_EVERY = 2.0  # seconds between looks
_WIDTH = 140  # columns at least, so that a pipe's lines are not folded
_SHOWN = 40  # runs that --watch lists at most


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


def _said_by(owner: Owner) -> str:
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


def _page(launch: Launch, runs_dir: Path, most: int | None) -> Group:
    """What is shown of one launch; with `most`, that many runs at most, the finished ones left out first."""
    found = states(launch, runs_dir)
    about, counts = launch.about, Counter(state.state for state in found)
    head = f"{launch.folder.name}  {_controller(about)}  {about['command']}"
    summary = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state]) or "no runs"
    lines = [Text(head, overflow="fold"), Text(f"{summary}, of {len(found)}{_study(about)}")]
    order = (RUNNING, FAILED, TO_DO, COMPLETE)
    rows = sorted(found, key=lambda state: order.index(state.state)) if most else found
    if most and len(rows) > most:
        lines.append(Text(f"{len(rows) - most} more not shown: python -m sweep.status {launch.folder.name}"))
    return Group(*lines, _table(rows[:most]))


def _controller(about: dict[str, Any]) -> str:
    """Who launched it; that it has ended can be told on its own machine only."""
    here = about["host"] == socket.gethostname()
    ended = here and not Path(f"/proc/{about['pid']}").exists() and Path("/proc").is_dir()
    return f"{about['host']}, pid {about['pid']}" + (" (ended)" if ended else "")


def _study(about: dict[str, Any]) -> str:
    study = about.get("study")
    return f"; study {study['name']}: {study['n_trials']} trials asked for" if study else ""


def _table(rows: Sequence[State]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("run", "what", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("", overflow="fold")
    for row in rows:
        table.add_row(row.run_id, Text(row.title), row.state, Text(row.detail))
    return table


def _all_launches(runs_dir: Path) -> Iterator[str]:
    """A line for each launch."""
    for launch in launches(runs_dir):
        counts = Counter(state.state for state in states(launch, runs_dir))
        said = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
        yield f"{launch.folder.name}  {said}  {launch.about['command']}"


def _watch(launch: Launch, runs_dir: Path, console: Console) -> None:
    """Show the launch until nothing of it is running or to do, or Ctrl-C."""
    with Live(_page(launch, runs_dir, _SHOWN), console=console, auto_refresh=False) as live:
        while any(state.state in (RUNNING, TO_DO) for state in states(launch, runs_dir)):
            time.sleep(_EVERY)
            launch = find_launch(runs_dir, launch.folder.name)  # a search adds runs as it goes
            live.update(_page(launch, runs_dir, _SHOWN), refresh=True)


def add_launch(parser: argparse.ArgumentParser, all_is: str) -> None:
    """The arguments that say which launch of which run store; `all_is`: what the word ALL is for."""
    said = f"a launch's name, or how it begins (default: the latest); `{ALL}` {all_is}"
    parser.add_argument("launch", nargs="?", help=said)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="the run store (default: runs)")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.status",
        description="What of a sweep is finished, running, failed and still to do.",
    )
    add_launch(parser, "for a line each")
    parser.add_argument("--watch", action="store_true", help=f"look again every {_EVERY:g} s until all is done")
    args = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if args.watch else max(Console().width, _WIDTH))
    try:
        if args.launch == ALL:
            for line in _all_launches(args.runs):
                console.print(line, markup=False, soft_wrap=True)
            return 0
        launch = find_launch(args.runs, args.launch)
        if args.watch:
            _watch(launch, args.runs, console)
        else:
            console.print(_page(launch, args.runs, None))
    except StatusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
