"""Stop bad runs early: while runs train, report their curves to the study, whose pruner decides.

A study that can be pruned maximises CE recovered, and training reports FVU, where less is better. So the study is told
1 - FVU: more is better throughout. Its steps are percent of a run's training, at each tenth, so that runs of different
length compare. A pruned trial's value in the study is the last 1 - FVU that was reported.
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

_INTERVAL = 0.25  # seconds between two looks at the curves


def rungs(curve: Iterable[tuple[float, float]], steps: int) -> Iterator[tuple[int, float]]:
    """Yield (percent of training, FVU) of the first report at or after each tenth of the training.

    Args:
        curve: (step, FVU) of each report, by rising step.
        steps: how many the whole training has.
    """
    reached = 0
    for step, fvu in curve:
        rung = int(RUNGS * step // steps)
        if rung > reached:
            reached = rung
            yield 100 * rung // RUNGS, fvu


def curve_of(folder: Path) -> list[tuple[float, float]]:
    """Return (step, FVU) of the reports so far of the run in `folder`."""
    return [(report["step"], report["fvu"]) for report in read_curve(folder) if report.get("fvu") is not None]


def recorded_curve(record: Record, batch_size: int) -> list[tuple[float, float]]:
    """Return (step, FVU) of the points of a finished run's curve that its record keeps."""
    curves = record.get("curves", {})
    pairs = zip(curves.get("tokens", []), curves.get("fvu", []), strict=True)
    return [(tokens / batch_size, fvu) for tokens, fvu in pairs]


def report(trial: Trial, curve: Iterable[tuple[float, float]], steps: int, told: int = 0) -> int:
    """Report to the study what `rungs` yields after `told` percent; return the percentage of the last report."""
    for percent, fvu in rungs(curve, steps):
        if percent > told:
            trial.report(1 - fvu, percent)
            told = percent
    return told


@contextmanager
def pruned(trials: Mapping[str, tuple[Trial, Job]], launch: str) -> Iterator[set[str]]:
    """Watch runs as long as the context lasts; its value is the set of run ids that were asked to stop.

    Args:
        trials: each run's trial and job, by run id.
        launch: the launch's name; only its workers are asked.
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
            except StorageError:  # the search's own next call to the storage raises it too, and ends the search
                return
