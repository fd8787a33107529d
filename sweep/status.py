"""`python -m sweep.status [LAUNCH] [--watch]`: what of a sweep is finished, running, failed and still to do."""

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
    State,
    StatusError,
    add_launch,
    find_launch,
    launches,
    states,
)
from sweep.store.records import COMPLETE

_STATES = (COMPLETE, RUNNING, FAILED, TO_DO)
_EVERY = 2.0  # seconds between looks
_WIDTH = 140  # columns at least, so that a pipe's lines are not folded
_SHOWN = 40  # runs that --watch lists at most


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
