"""Search: ask for trials, have the launcher's workers train them and tell the study, until it has enough.

Any number of controllers (`sweep.study.controller`) may work on one study. Those of one run store take turns to ask for
trials, under a lock; and before each trial a controller counts how many are still missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from optuna import Trial
from optuna.trial import TrialState

from sweep.jobs.job import Job
from sweep.plan.plan import Planned, joined
from sweep.run.once import preflight, unfinished_needs
from sweep.store.records import COMPLETE, Record, read_record, run_folder
from sweep.study.cells import Cells, ImpossibleError
from sweep.study.controller import Owner
from sweep.study.curves import curve_of, recorded_curve
from sweep.study.outcome import Outcome, impossible, job_marks, outcome_of
from sweep.study.pruning import pruned, report
from sweep.study.samplers import PRUNERS
from sweep.study.storage import StorageError
from sweep.study.trials import (
    FINISHED,
    Asking,
    counted,
    dropped_before,
    free_dead,
    give_back,
    mark,
    next_trial,
    one_too_many,
    others,
    release,
    tell,
    whose,
)
from sweep.workers.display import outcome as in_words

IMPOSSIBLE_IN_A_ROW = 200  # a search ends after this many trials in a row that no run can have
LEAST_FAILURES = 10  # a search ends after this many failed runs, or after n_trials of them if that is more
_POLL = 1.0  # seconds between looks at what other controllers do

# A function that carries runs out and returns by run id why one left no record; see `sweep.workers.start.launch`.
# Its arguments: the runs, how many trials are finished, how many there shall be.
Launch = Callable[[Sequence[Planned], int, int | None], dict[str, str]]


class SearchError(ValueError):
    """The search ended before its target."""


class Asked(NamedTuple):
    """A trial that was asked for, with the run that it stands for."""

    trial: Trial
    run: Planned
    job: Job


@dataclass
class Tally:
    """The trials of this launch, counted by what became of them."""

    failures: int = 0
    impossible: int = 0  # impossible trials in a row, up to now
    from_store: int = 0


@dataclass(frozen=True)
class Search:
    """One controller's search, ready to start."""

    asking: Asking
    cells: Cells
    launch: Launch
    batch: int  # trials asked for at a time
    tally: Tally = field(default_factory=Tally)

    @property
    def folder(self) -> Path:
        """The folder that the search leaves its results in."""
        return self.asking.controller.runs_dir / "studies" / self.asking.study.study_name


def search(to_do: Search) -> None:
    """Carry on the search to its target.

    Raises:
        SearchError: the search ended early: too many trials in a row were impossible, or too many runs failed.
        StorageError: the storage can no longer be used.
        ValueError: a setting is wrong.
    """
    waited = False
    while True:
        batch: list[Asked] = []
        with _released_after(to_do, batch):
            with _asking_alone(to_do):
                free_dead(to_do.asking)
                _fill(to_do, batch)
            if batch:
                _carry_out(to_do, batch)
        if batch:
            continue
        if live := others(to_do.asking, Owner.LIVE):
            if not waited:
                _say(f"waiting for {len(live)} trial(s) of other controllers ({whose(live[0])})")
            waited = True
            time.sleep(_POLL)
        else:
            return


@contextmanager
def _asking_alone(to_do: Search) -> Iterator[None]:
    """Keep the run store's other controllers from asking for trials of this study."""
    to_do.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(to_do.folder / "lock"):
        yield


@contextmanager
def _released_after(to_do: Search, batch: Sequence[Asked]) -> Iterator[None]:
    """Let the trials of `batch` wait for the next controller if the search ends by Ctrl-C or an error."""
    try:
        yield
    except BaseException:
        with suppress(StorageError), _asking_alone(to_do):
            running = others(to_do.asking, Owner.US)
            ours = {asked.trial.number for asked in batch}
            for trial in running:
                if trial.number in ours:
                    release(to_do.asking, trial, "its controller was interrupted")
        raise


def _fill(to_do: Search, batch: list[Asked]) -> None:
    """Ask for trials until `batch` is full or the target is met.

    Trials that need no training are ended at once and do not go into the batch.
    """
    while len({asked.job.spec.run_id for asked in batch}) < to_do.batch and _more_needed(to_do):
        trial = next_trial(to_do.asking)
        if trial is None:
            break
        asked = _planned(to_do, trial)
        if asked is None:
            continue
        if one_too_many(to_do.asking, trial):
            give_back(to_do.asking, trial, "one too many")
            break
        twin = _trained_elsewhere(to_do, asked)
        if twin is not None:
            give_back(to_do.asking, trial, f"drawn twice: trial {twin} is training it")
            break
        mark(to_do.asking.study, trial, job_marks(asked.job))
        if asked.run.done:
            _tell_from_store(to_do, asked)
        elif (before := dropped_before(to_do.asking, trial, asked.job.spec.run_id)) is not None:
            tell(to_do.asking.study, trial, before)
            _say(f"{_count(to_do)} {asked.job.title}: drawn again, dropped before")
        else:
            batch.append(asked)


def _more_needed(to_do: Search) -> bool:
    target = to_do.asking.config.n_trials
    return target is None or len(counted(to_do.asking)) < target


def _planned(to_do: Search, trial: Trial) -> Asked | None:
    """Return the trial with its run; end an impossible trial and return None."""
    try:
        run = to_do.cells.planned(trial.params)
    except ImpossibleError as error:
        tell(to_do.asking.study, trial, impossible(str(error)))
        to_do.tally.impossible += 1
        if to_do.tally.impossible == IMPOSSIBLE_IN_A_ROW and to_do.asking.config.sampler != "grid":
            raise SearchError(f"{IMPOSSIBLE_IN_A_ROW} trials in a row were impossible, the last: {error}") from None
        return None
    except BaseException:  # a setting is wrong, and the values drawn are not to blame
        study = to_do.asking.study
        frozen = study.get_trials(deepcopy=False)[trial.number]
        release(to_do.asking, frozen, "its search had a wrong setting")
        raise
    to_do.tally.impossible = 0
    assert isinstance(run.job, Job)
    return Asked(trial, run, run.job)


def _trained_elsewhere(to_do: Search, asked: Asked) -> int | None:
    """Return the number of another controller's running trial with the same run, or None.

    A grid looks for none: all its combinations are asked for, and it waits for the others' runs instead.
    """
    if to_do.asking.config.sampler == "grid":
        return None
    for kind in (Owner.LIVE, Owner.UNKNOWN):
        for trial in others(to_do.asking, kind):
            if trial.user_attrs.get("run_id") == asked.job.spec.run_id:
                return trial.number
    return None


def _tell_from_store(to_do: Search, asked: Asked) -> None:
    """End a trial whose run the run store has already."""
    record, folder = _record(asked), run_folder(asked.job.runs_dir, asked.job.spec.run_id)
    outcome = outcome_of(record, to_do.asking.config)
    _tell(to_do, asked, outcome._replace(marks={**outcome.marks, "from_store": True}), record)
    to_do.tally.from_store += 1
    _say(f"{_count(to_do)} {asked.job.title}: from the run store: {in_words(record, folder)}")
    if outcome.state == TrialState.FAIL:
        _count_failure(to_do, outcome.marks["error"])


def _carry_out(to_do: Search, batch: Sequence[Asked]) -> None:
    """Train the batch's runs and tell the study what became of them."""
    runs: dict[str, Planned] = {}
    for asked in batch:  # trials that differ only in what is measured are one run
        run_id = asked.job.spec.run_id
        runs[run_id] = joined(runs[run_id], asked.run) if run_id in runs else asked.run
    for job in {asked.job.spec.activations: asked.job for asked in batch}.values():
        preflight(job)
    needed = {job.spec.run_id for asked in batch for job in unfinished_needs(asked.job)}
    watched = {run_id: (asked.trial, asked.job) for asked in batch if (run_id := asked.job.spec.run_id) not in needed}
    with pruned(watched, to_do.asking.study, to_do.asking.config, to_do.cells.launch):
        why = to_do.launch(list(runs.values()), _finished(to_do), to_do.asking.config.n_trials)
    for asked in batch:
        run_id, record = asked.job.spec.run_id, _record(asked)
        complete = record is not None and record["status"] == COMPLETE
        # A run with a reason in `why` left no record in this launch: a record of a failure is from an earlier launch.
        its_own = record if complete or run_id not in why else None
        outcome = outcome_of(its_own, to_do.asking.config, why.get(run_id, ""))
        _tell(to_do, asked, outcome, record)
        if outcome.state == TrialState.FAIL:
            _count_failure(to_do, outcome.marks["error"])


def _tell(to_do: Search, asked: Asked, outcome: Outcome, record: Record | None) -> None:
    """End a trial. For one of Optuna's pruners, report the run's curve first, for other trials to be compared with."""
    if to_do.asking.config.pruner in PRUNERS and outcome.state == TrialState.COMPLETE and record is not None:
        train = asked.job.spec.train
        folder = run_folder(asked.job.runs_dir, asked.job.spec.run_id)
        report(asked.trial, curve_of(folder) or recorded_curve(record, train.batch_size), train.steps)
    tell(to_do.asking.study, asked.trial, outcome)


def _count_failure(to_do: Search, error: str) -> None:
    """Count a failed run. Raises SearchError when there are too many."""
    to_do.tally.failures += 1
    most = max(LEAST_FAILURES, to_do.asking.config.n_trials or 0)
    if to_do.tally.failures >= most and to_do.asking.config.sampler != "grid":
        raise SearchError(f"{most} runs failed in this launch, the last: {error}")


def _record(asked: Asked) -> Record | None:
    return read_record(asked.job.runs_dir, asked.job.spec.run_id)


def _finished(to_do: Search) -> int:
    return len(to_do.asking.study.get_trials(deepcopy=False, states=FINISHED))


def _count(to_do: Search) -> str:
    target = to_do.asking.config.n_trials
    return f"[{_finished(to_do)}/{target}]" if target else f"[{_finished(to_do)}]"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
