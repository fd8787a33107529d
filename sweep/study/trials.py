"""Ask for trials of a study, tell what became of them, count them, and free those of dead controllers.

Controllers that share a run store take turns: `sweep.study.search` holds a lock while it calls these functions.
Controllers of different run stores share only the study's database; the rules below keep their count of trials right.

A trial's user attributes name its owner (`sweep.study.controller`) and its `draw`, a counter of new proposals: the
sampler is seeded with (seed, draw), and a retry keeps its draw. A trial that ended badly also has one of

    reason      its values are impossible; it was never trained
    error       its run failed
    freed       its controller died or was interrupted; another trial repeats its draw and values, and has its number
                as `retry_of`
    given_back  it was more than the target, or another controller is training its run

One whose run was ended early has `dropped`, which says why, and `dropped_at`, the step of its training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from sweep.private_names import set_trial_attribute
from sweep.store.records import DROPPED, Record, read_record
from sweep.study.config import SearchConfig
from sweep.study.controller import Controller, Owner
from sweep.study.outcome import Outcome, outcome_of
from sweep.study.samplers import GRID, sampler_for
from sweep.study.space import Space, cell_of, values_of
from sweep.study.storage import StorageError

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Asking(NamedTuple):
    """A study with all that is needed to ask it for trials."""

    study: Study
    config: SearchConfig
    space: Space
    controller: Controller


def next_trial(asking: Asking) -> Trial | None:
    """Return the next trial: one that waits to be retried, else a fresh draw; None if a grid has no combination left.

    A controller that is killed at any point in here leaves a trial that waits, or one that names its owner. So no trial
    is lost, and no draw is skipped or made twice.
    """
    study, marks = asking.study, asking.controller.marks
    trials = study.get_trials(deepcopy=False)
    waiting = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
    if waiting is None:
        draw, params = _next_draw(trials), {}
        if asking.config.sampler == GRID:
            params = next(_combinations_left(asking, trials), None)
            if params is None:
                return None
        elif draw < len(asking.config.first):
            params = cell_of(asking.space, asking.config.first[draw])
        study.enqueue_trial(params, user_attrs={"draw": draw, **marks})
    else:
        draw = waiting.user_attrs.get("draw", _next_draw(trials))  # a trial that was enqueued by hand has none
        mark(study, waiting, {"draw": draw, **marks})
    study.sampler = sampler_for(asking.config.sampler, asking.config.seed, draw, _in_vain_in_a_row(trials))
    trial = study.ask(asking.space.distributions)
    if trial.user_attrs.get("owner") != asking.controller.token:  # a controller of another run store was quicker
        mark(study, trial, {"draw": draw, **marks})
    return trial


def tell(study: Study, trial: Trial | FrozenTrial, outcome: Outcome) -> bool:
    """End `trial`, and return True; return False if another controller has ended it in another way."""
    try:
        mark(study, trial, outcome.marks)
        study.tell(trial.number, outcome.values, outcome.state)
    except StorageError:
        raise
    except (UpdateFinishedTrialError, ValueError):
        state = study.get_trials(deepcopy=False)[trial.number].state
        if not state.is_finished():
            raise
        return state == outcome.state
    return True


def mark(study: Study, trial: Trial | FrozenTrial, marks: Mapping[str, Any]) -> None:
    """Set user attributes of a trial, also of another controller's."""
    for key, value in marks.items():
        set_trial_attribute(study, trial, key, value)


def free_dead(asking: Asking) -> int:
    """End the running trials whose controller is dead; return how many are to be retried.

    A trial whose run is complete takes its result; the values of the others wait to be asked for again. This
    controller's own running trials are ended too: it calls this while it works on none, so such a trial was made in the
    storage and the answer never arrived.
    """
    freed = 0
    for trial in asking.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if asking.controller.owner(trial.user_attrs) in (Owner.DEAD, Owner.US):
            freed += release(asking, trial, f"its controller ({whose(trial)}) died")
    return freed


def release(asking: Asking, trial: FrozenTrial, why: str) -> bool:
    """End a running trial that no controller works on any more; return whether it is to be retried."""
    study, run_id = asking.study, trial.user_attrs.get("run_id")
    record = read_record(asking.controller.runs_dir, run_id) if run_id else None
    outcome = outcome_of(record, asking.config)
    if outcome.state == TrialState.COMPLETE or (record is not None and _was_dropped_in(record, trial)):
        tell(study, trial, outcome)
        return False
    # The retry is enqueued first: a controller killed in between leaves both, and `free_dead` ends the old one later.
    if not any(other.user_attrs.get("retry_of") == trial.number for other in study.get_trials(deepcopy=False)):
        again = {"retry_of": trial.number, "draw": trial.user_attrs["draw"]}
        study.enqueue_trial(_values_of_retry(asking.space, trial), user_attrs=again)
    tell(study, trial, Outcome(TrialState.FAIL, None, {"freed": why}))
    return True


def dropped_before(asking: Asking, trial: Trial, run_id: str) -> Outcome | None:
    """Return the outcome of an earlier trial of this study with the same run, if that was ended early; else None.

    A search that prunes does not train such a run again. One that does not prune any more trains it to its end.
    """
    if asking.config.pruner is None:
        return None
    ended = asking.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    for other in ended:
        marks = other.user_attrs
        if marks.get("run_id") == run_id and other.number < trial.number and "dropped" in marks:
            kept = {key: marks[key] for key in ("dropped", "dropped_at", "seconds")}
            return Outcome(TrialState.PRUNED, None, {**kept, "from_store": True})
    return None


def _was_dropped_in(record: Record, trial: FrozenTrial) -> bool:
    """Tell whether the trial's own launch dropped the run of this record."""
    return record["status"] == DROPPED and record["labels"]["sweep"] == trial.user_attrs.get("launch")


def give_back(asking: Asking, trial: Trial, why: str) -> None:
    """End a trial that is not needed after all."""
    tell(asking.study, trial, Outcome(TrialState.FAIL, None, {"given_back": why}))


def counted(asking: Asking) -> list[FrozenTrial]:
    """Return the trials that count towards the target: finished ones, and running ones that may finish."""
    return [
        trial
        for trial in asking.study.get_trials(deepcopy=False)
        if trial.state in FINISHED
        or trial.state == TrialState.RUNNING
        and asking.controller.owner(trial.user_attrs) != Owner.DEAD
    ]


def one_too_many(asking: Asking, trial: Trial) -> bool:
    """Tell whether the target is met without `trial`.

    Where several controllers overshoot the target, the trials with the highest numbers are given back.
    """
    target = asking.config.n_trials
    return target is not None and sum(other.number < trial.number for other in counted(asking)) >= target


def others(asking: Asking, kind: Owner) -> list[FrozenTrial]:
    """Return the running trials whose owner is of that kind."""
    running = asking.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if asking.controller.owner(trial.user_attrs) == kind]


def whose(trial: FrozenTrial) -> str:
    """Return the host and process of the trial's controller, in words."""
    marks = trial.user_attrs
    return f"{marks.get('host', 'unknown host')}, pid {marks.get('pid', 'unknown')}"


def combinations(space: Space) -> Iterator[dict[str, Any]]:
    """Yield every combination, the last name's values changing fastest.

    Raises:
        SpaceError: a parameter is an interval, which has no list of values.
    """
    names = list(space.distributions)
    for values in itertools.product(*(values_of(space, name) for name in names)):
        yield dict(zip(names, values, strict=True))


def _combinations_left(asking: Asking, trials: list[FrozenTrial]) -> Iterator[dict[str, Any]]:
    """Return the combinations that no trial has yet, and those whose run failed in an earlier launch."""
    names = list(asking.space.distributions)

    def is_taken(trial: FrozenTrial) -> bool:
        marks = trial.user_attrs
        failed_here = "error" in marks and marks.get("owner") == asking.controller.token
        return trial.state != TrialState.FAIL or "reason" in marks or failed_here

    taken = {_values(names, _drawn(trial)) for trial in trials if is_taken(trial)}
    return (params for params in combinations(asking.space) if _values(names, params) not in taken)


def _values(names: list[str], params: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(params.get(name) for name in names)


def _drawn(trial: FrozenTrial) -> dict[str, Any]:
    """Return the trial's values, including those that it was enqueued with but has not drawn yet."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _values_of_retry(space: Space, trial: FrozenTrial) -> dict[str, Any]:
    """Return the values that the trial's retry is enqueued with.

    A trial whose controller was killed while it drew is drawn again as a whole, by the same seed.
    """
    drawn = set(trial.params) == set(space.distributions)
    return dict(trial.params) if drawn else trial.system_attrs.get("fixed_params", {})


def _next_draw(trials: list[FrozenTrial]) -> int:
    """Return the number of the next fresh draw."""
    return max((trial.user_attrs["draw"] + 1 for trial in trials if "draw" in trial.user_attrs), default=0)


def _in_vain_in_a_row(trials: list[FrozenTrial]) -> int:
    """Return how many of the last draws trained nothing: their values were impossible, or their run dropped before.

    Freed trials and those given back are passed over.
    """
    told = [trial for trial in trials if not {"freed", "given_back"} & trial.user_attrs.keys()]
    ended = [trial for trial in told if trial.state.is_finished()]
    return sum(1 for _ in itertools.takewhile(_was_in_vain, reversed(ended)))


def _was_in_vain(trial: FrozenTrial) -> bool:
    again = trial.state == TrialState.PRUNED and trial.user_attrs.get("from_store", False)
    return again or "reason" in trial.user_attrs
