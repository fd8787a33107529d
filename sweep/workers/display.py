"""Show on the terminal what each run of a sweep is doing.

A run writes that to a small file in its folder (`sweep.store.progress`), which makes the display the same for every
launcher: the runs may be in this process or in others.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sweep.store.records import (
    COMPLETE,
    DROPPED,
    LOG,
    PROGRESS,
    RECORD,
    RECOVERY,
    SYNTHETIC,
    Record,
    UnreadableError,
    drop_in_words,
    read_record,
    run_folder,
)

_REFRESH = 0.5  # least seconds between two looks; a run does not write its progress more often than that
_MOST_LOOKS = 400  # runs looked at per second at most: the store may be on a network


class _Shown(NamedTuple):
    """The line of a run under way."""

    stage: str
    task: TaskID
    done: int  # what was done of the stage when it was first seen
    since: float  # when that was, in seconds of the monotonic clock


class Display:
    """Shows a line for the sweep, a line for each run under way, and a lasting line for each run that ends.

    It is a context manager around the launch. On a terminal the lines are live; elsewhere only the lasting ones are
    printed.

    Args:
        runs: (run id, title) of every run to be done, in order.
        shown: where the runs are a part of a sweep, how many of the sweep's runs ended before.
        total: how many runs the whole sweep has; None if `runs` are the whole sweep.
    """

    def __init__(
        self,
        runs_dir: Path,
        runs: Sequence[tuple[str, str]],
        shown: int = 0,
        total: int | None = None,
        console: Console | None = None,
    ):
        self._runs_dir, self._runs = runs_dir, list(runs)
        self._console = console or Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._before = {run_id: _record_time(runs_dir, run_id) for run_id, _ in runs}
        self._ended: set[str] = set()
        self._shown, self._total = shown, total or len(self._runs)
        self._tasks: dict[str, _Shown] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._refresh_until_stopped, daemon=True)
        self._started = time.monotonic()

    def __enter__(self) -> Display:
        self._bars.start()
        self._sweep = self._bars.add_task("runs", total=self._total, note="")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._refresh()
        self._bars.stop()

    def _refresh_until_stopped(self) -> None:
        while not self._stop.wait(max(_REFRESH, len(self._runs) / _MOST_LOOKS)):
            self._refresh()

    def _refresh(self) -> None:
        for run_id, title in self._runs:
            if run_id in self._ended:
                continue
            written = _record_time(self._runs_dir, run_id)
            if written is not None and written != self._before[run_id]:
                self._show_end(run_id, title)
            else:
                self._show_progress(run_id, title)
        done = len(self._ended)
        spent = time.monotonic() - self._started
        left = f"{_clock(spent / done * (self._total - self._shown - done))} left" if done else ""
        self._bars.update(self._sweep, completed=self._shown + done, note=left)

    def _show_end(self, run_id: str, title: str) -> None:
        self._ended.add(run_id)
        if run_id in self._tasks:
            self._bars.remove_task(self._tasks.pop(run_id).task)
        try:
            said = outcome(read_record(self._runs_dir, run_id), run_folder(self._runs_dir, run_id))
        except UnreadableError as error:
            said = str(error)
        count = f"[{self._shown + len(self._ended)}/{self._total}]"
        self._console.print(f"{count} {title}: {said}", markup=False, soft_wrap=True)

    def _show_progress(self, run_id: str, title: str) -> None:
        try:
            written = json.loads((run_folder(self._runs_dir, run_id) / PROGRESS).read_text())
            state = {key: written[key] for key in ("stage", "done", "total", "note")}
        except (OSError, ValueError, LookupError, TypeError):  # removed meanwhile, or damaged
            return
        done, total, now = state["done"], state["total"], time.monotonic()
        shown = self._tasks.get(run_id)
        if shown is None or shown.stage != state["stage"]:  # a new stage starts its clock anew
            if shown is not None:
                self._bars.remove_task(shown.task)
            shown = _Shown(state["stage"], self._bars.add_task(f"{title}: {state['stage']}", note=""), done, now)
            self._tasks[run_id] = shown
        note = "  ".join(filter(None, (_left(shown, done, total, now), state["note"])))
        self._bars.update(shown.task, completed=done, total=total or None, note=note)


def _left(shown: _Shown, done: int, total: int, now: float) -> str:
    """Say how long the stage will take from now, if it goes on as it has gone since it was first seen."""
    if done <= shown.done or not total:
        return ""
    return f"{_clock((now - shown.since) / (done - shown.done) * (total - done))} left"


def outcome(record: Record | None, folder: Path) -> str:
    """Return in one line how the run in `folder` ended; None is a run without a record."""
    if record is None:
        return "no record"
    if record["status"] == DROPPED:
        return drop_in_words(record)
    if record["status"] != COMPLETE:
        return f"failed: {failure(record, folder)}"
    metrics, seconds = record["metrics"], record["timings"]["total"]
    if record.get("kind") == RECOVERY:
        best = max((value, name) for name, value in metrics.items() if name.endswith("/exact_recovery"))
        return f"exact recovery {best[0]:.2f} ({best[1].split('/')[0]}), {seconds:.1f} s"
    if record.get("kind") == SYNTHETIC:
        return f"features found {metrics['coverage']:.3f}, FVU {metrics['fvu']:.4f}, {seconds:.0f} s"
    recovered = metrics["ce_recovered"]
    share = "undefined" if recovered is None else f"{recovered:.4f}"
    return f"CE recovered {share}, FVU {metrics['fvu']:.4f}, {seconds:.0f} s"


def failure(record: Record, folder: Path) -> str:
    """Return in one line why the run in `folder` failed, and which file has the traceback."""
    return f"{record.get('error', 'unknown error')} (traceback: {folder / LOG})"


def _record_time(runs_dir: Path, run_id: str) -> int | None:
    """Return when the run's record was written, in ns; None where there is none."""
    try:
        return (run_folder(runs_dir, run_id) / RECORD).stat().st_mtime_ns
    except OSError:
        return None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
