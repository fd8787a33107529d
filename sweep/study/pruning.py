"""Stop bad runs early: while runs train, look at their curves and ask the workers to stop those that are bad.

Who is bad is for the search's pruner to say. `frontier` compares a run with the front at its own size
(`sweep.study.front_rule`); what it needs is kept in the study's trials, so that controllers of several run stores prune
alike. Optuna's pruners judge what has one objective. They are told 1 - FVU, as their study maximises what it looks for,
at each tenth of the training; a pruned trial's value in the study is the last 1 - FVU that was reported.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from optuna import Study, Trial
from optuna.trial import TrialState

from sweep.jobs.job import Job
from sweep.plan.footprint import planned_storage
from sweep.store.records import run_folder, stop_file
from sweep.study.config import SearchConfig
from sweep.study.curves import FRONT_RUNGS, alike, curve_of, rungs
from sweep.study.front import pareto_set
from sweep.study.front_rule import FrontRule, OnFront, why_dropped
from sweep.study.outcome import ALIKE, CURVE
from sweep.study.samplers import FRONTIER, RUNGS
from sweep.study.storage import StorageError

_INTERVAL = 0.25  # seconds between two looks at the curves


class Judge(Protocol):
    """Says why a run is to stop, in one line, or None if it is to go on."""

    def __call__(self, trial: Trial, job: Job, reached: Sequence[tuple[int, float]]) -> str | None:
        """Judge a run by (percent of training, FVU) of the rungs that it has reached since the last look."""
        ...


class Watched(NamedTuple):
    """A run under way that may be stopped."""

    trial: Trial
    job: Job
    stop: Path  # the file that asks its worker to stop


def report(trial: Trial, curve: Iterable[tuple[float, float]], steps: int) -> None:
    """Report a whole curve of (step, FVU) to the study, for Optuna's pruners to compare other trials with."""
    for percent, fvu in rungs(curve, steps):
        trial.report(1 - fvu, percent)


@contextmanager
def pruned(trials: Mapping[str, tuple[Trial, Job]], study: Study, config: SearchConfig, launch: str) -> Iterator[None]:
    """Watch runs as long as the context lasts, and ask bad ones to stop; they leave a record of status DROPPED.

    Args:
        trials: each run's trial and job, by run id.
        launch: the launch's name; only its workers are asked.
    """
    if config.pruner is None:
        yield
        return
    watched = [
        Watched(trial, job, stop_file(run_folder(job.runs_dir, run_id), launch))
        for run_id, (trial, job) in trials.items()
    ]
    judge, count = partial(_by_optuna, config), RUNGS
    if config.pruner == FRONTIER:
        judge, count = partial(_by_front, study, config), FRONT_RUNGS
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(watched, judge, count, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for run in watched:
            run.stop.unlink(missing_ok=True)


def _watch(watched: Sequence[Watched], judge: Judge, count: int, over: threading.Event) -> None:
    """Look at the curves until it is over, and judge each run at each of `count` rungs of its training."""
    told = [0] * len(watched)
    why: list[str | None] = [None] * len(watched)
    while not over.wait(_INTERVAL):
        for index, (trial, job, stop) in enumerate(watched):
            if why[index] is None:
                curve = rungs(curve_of(stop.parent), job.spec.train.steps, count)
                reached = [(percent, fvu) for percent, fvu in curve if percent > told[index]]
                if not reached:
                    continue
                told[index] = reached[-1][0]
                try:
                    why[index] = judge(trial, job, reached)
                except StorageError:  # the search's own next call to the storage raises it too, and ends the search
                    return
            _ask(stop, why[index])


def _ask(stop: Path, why: str | None) -> None:
    """Ask a run to stop, if there is a reason to; again if its worker removed the file as it started."""
    if why is not None and not stop.exists():
        with suppress(OSError):  # a full disk: the next look tries again
            stop.write_text(why)


def _by_front(
    study: Study, config: SearchConfig, trial: Trial, job: Job, reached: Sequence[tuple[int, float]]
) -> str | None:
    """Judge a run by the front of the study's complete trials at its size; see `sweep.study.front_rule`."""
    kind = alike(job)
    front = [
        OnFront(other.user_attrs["stored_bytes"], dict(other.user_attrs[CURVE]))
        for other in pareto_set(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), config)
        if other.user_attrs.get(ALIKE) == kind and CURVE in other.user_attrs
    ]
    rule = FrontRule(config.prune_share, config.prune_margin, config.prune_after)
    return why_dropped(planned_storage(job).artifact_bytes, *reached[-1], front, rule)


def _by_optuna(config: SearchConfig, trial: Trial, job: Job, reached: Sequence[tuple[int, float]]) -> str | None:
    """Judge a run by the study's own pruner."""
    for percent, fvu in reached:
        trial.report(1 - fvu, percent)
    percent, fvu = reached[-1]
    if percent >= 100 or not trial.should_prune():
        return None
    return f"FVU {fvu:.3f} at {percent} % of training, by the pruner {config.pruner}"
