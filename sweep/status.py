"""`python -m sweep.status [LAUNCH] [--watch]`: list which runs of a sweep are finished, running, failed or to do.

Runs that a search dropped are listed as such.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.store.launches import (
    ALL,
    FAILED,
    RUNNING,
    TO_DO,
    Launch,
    LaunchNotFoundError,
    State,
    add_launch,
    find_launch,
    launches,
    states,
)
from sweep.store.records import COMPLETE, DROPPED

_STATES = (COMPLETE, RUNNING, DROPPED, FAILED, TO_DO)  # in the order in which they are counted
_WATCHED_FIRST = (RUNNING, FAILED, TO_DO, DROPPED, COMPLETE)  # in the order in which --watch lists runs
_EVERY = 2.0  # seconds between two looks of --watch
_WIDTH = 140  # columns at least, so that lines written to a pipe are not folded
_SHOWN = 40  # runs that --watch lists at most


def _page(launch: Launch, found: Sequence[State], most: int | None) -> Group:
    """Return what is shown of one launch: its command, the counts of its runs' states, and a table of its runs.

    Args:
        found: the runs' states, in the launch's order.
        most: runs in the table, at most; finished runs are left out first. None shows all, in the launch's order.
    """
    name = launch.folder.name
    lines = [
        Text(f"launch {name} on {_controller(launch.about)}"),
        Text(_command(launch), overflow="fold"),
        Text(f"{_counted(found)}{_study(launch.about)}"),
    ]
    rows = sorted(found, key=lambda state: _WATCHED_FIRST.index(state.state)) if most else found
    if most and len(rows) > most:
        lines.append(Text(f"{len(rows) - most} more runs are not shown; python -m sweep.status {name} lists all"))
    return Group(*lines, _table(rows[:most]))


def _command(launch: Launch) -> str:
    return f"python -m sweep {launch.about['command']}"


def _counted(found: Sequence[State]) -> str:
    """Return, for example, `6 runs: 4 complete, 1 running, 1 to do`."""
    counts = Counter(state.state for state in found)
    parts = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
    return f"{len(found)} run{'' if len(found) == 1 else 's'}: {parts}" if found else "no runs"


def _controller(about: dict[str, Any]) -> str:
    """Return the host and pid of the process that launched the runs, with `(ended)` if it has ended.

    Only the process's own machine can tell that it has ended.
    """
    here = about["host"] == socket.gethostname()
    ended = here and not Path(f"/proc/{about['pid']}").exists() and Path("/proc").is_dir()
    return f"{about['host']}, pid {about['pid']}" + (" (ended)" if ended else "")


def _study(about: dict[str, Any]) -> str:
    """Return the name and aim of the launch's study; empty for a launch that is no search."""
    study = about.get("study")
    return f"; study {study['name']}: {study['n_trials']} trials asked for" if study else ""


def _table(rows: Sequence[State]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("run", "title", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("detail", overflow="fold")
    for row in rows:
        table.add_row(row.run_id, Text(row.title), row.state, Text(row.detail))
    return table


def _all_launches(runs_dir: Path) -> Iterator[str]:
    """Yield one line about each launch of the run store, or one that says that there is none."""
    known = launches(runs_dir)
    if not known:
        yield f"there is no launch in {runs_dir}"
    for launch in known:
        yield f"{launch.folder.name}  {_counted(states(launch, runs_dir))}  {_command(launch)}"


def _watch(launch: Launch, runs_dir: Path, console: Console) -> None:
    """Show the launch until none of its runs is running or to do."""
    found = states(launch, runs_dir)
    with Live(_page(launch, found, _SHOWN), console=console, auto_refresh=False) as live:
        while any(state.state in (RUNNING, TO_DO) for state in found):
            time.sleep(_EVERY)
            launch = find_launch(runs_dir, launch.folder.name)  # a search adds runs as it goes
            found = states(launch, runs_dir)
            live.update(_page(launch, found, _SHOWN), refresh=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.status",
        description="List which runs of a sweep are finished, running, dropped, failed or to do.",
    )
    add_launch(parser, "for one line about every launch")
    parser.add_argument(
        "--watch", action="store_true", help=f"show them again every {_EVERY:g} s until none is running or to do"
    )
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
            console.print(_page(launch, states(launch, args.runs), None))
    except LaunchNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
