"""Runs that are stopped early: while they train, their curves are read and told to the study's pruner.

A study that can be pruned maximises CE recovered, and training reports FVU, where less is better. What is told is
1 - FVU, so that more is better throughout; the step is percent of the run's training, at each tenth, so that runs of
different length compare. A pruned trial's value in the study is the last 1 - FVU it was told.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from optuna import Trial

from sweep.jobs.job import Job
from sweep.store.records import Record, read_curve, run_folder, stop_file
from sweep.study.samplers import RUNGS
from sweep.study.storage import StorageError

_INTERVAL = 0.25  # seconds between two looks


def rungs(curve: Iterable[tuple[float, float]], steps: int) -> Iterator[tuple[int, float]]:
    """(percent of training, FVU) at the first report at or after each tenth of it.

    Args:
        curve: (step, FVU) of the reports, rising.
        steps: of the whole training.
    """
    reached = 0
    for step, fvu in curve:
        rung = int(RUNGS * step // steps)
        if rung > reached:
            reached = rung
            yield 100 * rung // RUNGS, fvu


def curve_of(folder: Path) -> list[tuple[float, float]]:
    """(step, FVU) of the run's reports so far."""
    return [(report["step"], report["fvu"]) for report in read_curve(folder) if report.get("fvu") is not None]


def recorded_curve(record: Record, batch_size: int) -> list[tuple[float, float]]:
    """The same of a finished run's record, which keeps it thinned."""
    curves = record.get("curves", {})
    pairs = zip(curves.get("tokens", []), curves.get("fvu", []), strict=True)
    return [(tokens / batch_size, fvu) for tokens, fvu in pairs]


def report(trial: Trial, curve: Iterable[tuple[float, float]], steps: int, told: int = 0) -> int:
    """Tell the study of the rungs after `told` percent; return the last one told."""
    for percent, fvu in rungs(curve, steps):
        if percent > told:
            trial.report(1 - fvu, percent)
            told = percent
    return told


@contextmanager
def pruned(trials: Mapping[str, tuple[Trial, Job]], launch: str) -> Iterator[set[str]]:
    """Watch the runs of `trials` (by run id) while within; the set is of those asked to stop.

    Args:
        launch: the launch's name: its workers alone are asked.
    """
    stopped: set[str] = set()
    stops = {run_id: stop_file(run_folder(job.runs_dir, run_id), launch) for run_id, (_, job) in trials.items()}
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(trials, stops, stopped, over), daemon=True)
    thread.start()
    try:
        yield stopped
    finally:
        over.set()
        thread.join()
        for path in stops.values():
            path.unlink(missing_ok=True)


def _watch(
    trials: Mapping[str, tuple[Trial, Job]], stops: Mapping[str, Path], stopped: set[str], over: threading.Event
) -> None:
    told = dict.fromkeys(trials, 0)
    while not over.wait(_INTERVAL):
        for run_id, (trial, job) in trials.items():
            if run_id in stopped:
                continue
            curve = curve_of(run_folder(job.runs_dir, run_id))
            try:
                now = report(trial, curve, job.spec.train.steps, told[run_id])
                if now > told[run_id] and now < 100 and trial.should_prune():
                    stops[run_id].touch()
                    stopped.add(run_id)
                told[run_id] = now
            except StorageError:  # said by the next call that needs the storage
                return
