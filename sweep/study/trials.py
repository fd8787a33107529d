"""Trials of a study: asking for one, telling what became of it, counting them, freeing those of dead controllers.

What is here is done by one controller of a run store at a time (`sweep.study.search` holds a lock). Between run stores,
whose controllers share a database alone, the rules below keep the count right.

A trial bears as user attributes its owner (`sweep.study.controller`), `draw` (which fresh draw it is: the sampler's
seed follows from it), and when it ended badly one of

    reason      its values are impossible; it was never trained
    error       its run failed
    freed       its controller died or was interrupted; another trial has `retry_of` = its number, draw and values
    given_back  it was one too many, or somebody else is training it
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from sweep.store.records import read_record
from sweep.study.config import SearchConfig
from sweep.study.controller import Controller, Owner
from sweep.study.outcome import Outcome, outcome_of
from sweep.study.samplers import GRID, sampler_for
from sweep.study.space import Space, values_of
from sweep.study.storage import StorageError

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Asking(NamedTuple):
    """What it takes to ask for trials."""

    study: Study
    config: SearchConfig
    space: Space
    controller: Controller


def next_trial(asking: Asking) -> Trial | None:
    """The next trial: one that waits to be retried, else a fresh draw; None where a grid has no combination left.

    Killed at any point, this leaves a trial that waits, or one with its owner's mark: nothing is lost, and no draw is
    skipped or made twice.
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
        study.enqueue_trial(params, user_attrs={"draw": draw, **marks})
    else:
        draw = waiting.user_attrs.get("draw", _next_draw(trials))  # a trial that somebody enqueued by hand has none
        mark(study, waiting, {"draw": draw, **marks})
    study.sampler = sampler_for(asking.config.sampler, asking.config.seed, draw, _impossible_in_a_row(trials))
    trial = study.ask(asking.space.distributions)
    if trial.user_attrs.get("owner") != asking.controller.token:  # a controller of another run store was quicker
        mark(study, trial, {"draw": draw, **marks})
    return trial


def tell(study: Study, trial: Trial | FrozenTrial, outcome: Outcome) -> bool:
    """End `trial`. False where somebody else has ended it."""
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
    """Set user attributes; Optuna's own way to do it wants a `Trial`, which nobody has of another's trial."""
    for key, value in marks.items():
        study._storage.set_trial_user_attr(trial._trial_id, key, value)


def free_dead(asking: Asking) -> int:
    """End the running trials whose controller is dead; return how many were to be retried.

    One whose run is complete takes its result; the others' values wait to be asked for again. Our own are among them:
    called while none is in hand, an own running trial is one that got lost between us and the storage.
    """
    freed = 0
    for trial in asking.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if asking.controller.owner(trial.user_attrs) in (Owner.DEAD, Owner.US):
            freed += release(asking, trial, f"its controller ({whose(trial)}) died")
    return freed


def release(asking: Asking, trial: FrozenTrial, why: str) -> bool:
    """End a running trial that nobody works on any more; whether it is to be retried."""
    study, run_id = asking.study, trial.user_attrs.get("run_id")
    outcome = outcome_of(read_record(asking.controller.runs_dir, run_id) if run_id else None, asking.config)
    if outcome.state == TrialState.COMPLETE:
        tell(study, trial, outcome)
        return False
    # First the new, then the end of the old: killed between, we find the old one again and the new one there.
    if not any(other.user_attrs.get("retry_of") == trial.number for other in study.get_trials(deepcopy=False)):
        again = {"retry_of": trial.number, "draw": trial.user_attrs["draw"]}
        study.enqueue_trial(_fixed(asking.space, trial), user_attrs=again)
    tell(study, trial, Outcome(TrialState.FAIL, None, {"freed": why}))
    return True


def give_back(asking: Asking, trial: Trial, why: str) -> None:
    tell(asking.study, trial, Outcome(TrialState.FAIL, None, {"given_back": why}))


def counted(asking: Asking) -> list[FrozenTrial]:
    """The trials that are part of the target: finished ones, and running ones that may finish."""
    return [
        trial
        for trial in asking.study.get_trials(deepcopy=False)
        if trial.state in FINISHED
        or trial.state == TrialState.RUNNING
        and asking.controller.owner(trial.user_attrs) != Owner.DEAD
    ]


def one_too_many(asking: Asking, trial: Trial) -> bool:
    """Whether the target is met without `trial`: of those asked for at once, the last to come gives way."""
    target = asking.config.n_trials
    return target is not None and sum(other.number < trial.number for other in counted(asking)) >= target


def others(asking: Asking, kind: Owner) -> list[FrozenTrial]:
    """The running trials of other controllers of a kind."""
    running = asking.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in running if asking.controller.owner(trial.user_attrs) == kind]


def whose(trial: FrozenTrial) -> str:
    marks = trial.user_attrs
    return f"{marks.get('host', 'unknown host')}, pid {marks.get('pid', 'unknown')}"


def combinations(space: Space) -> Iterator[dict[str, Any]]:
    """Every combination, the last name's values changing fastest. Raises SpaceError where one has no list of values."""
    names = list(space.distributions)
    for values in itertools.product(*(values_of(space, name) for name in names)):
        yield dict(zip(names, values, strict=True))


def _combinations_left(asking: Asking, trials: list[FrozenTrial]) -> Iterator[dict[str, Any]]:
    """Those that no trial has; a run that failed in an earlier launch is tried again."""
    names = list(asking.space.distributions)

    def taken(trial: FrozenTrial) -> bool:
        failed_before = "error" in trial.user_attrs and trial.user_attrs.get("owner") != asking.controller.token
        return trial.state != TrialState.FAIL or "reason" in trial.user_attrs or (
            "error" in trial.user_attrs and not failed_before
        )  # fmt: skip

    had = {_values(names, _drawn(trial)) for trial in trials if taken(trial)}
    return (params for params in combinations(asking.space) if _values(names, params) not in had)


def _values(names: list[str], params: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(params.get(name) for name in names)


def _drawn(trial: FrozenTrial) -> dict[str, Any]:
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


def _fixed(space: Space, trial: FrozenTrial) -> dict[str, Any]:
    """The values that its retry has; a trial killed while it was drawn is drawn again, whole, by the same seed."""
    drawn = set(trial.params) == set(space.distributions)
    return dict(trial.params) if drawn else trial.system_attrs.get("fixed_params", {})


def _next_draw(trials: list[FrozenTrial]) -> int:
    return max((trial.user_attrs["draw"] + 1 for trial in trials if "draw" in trial.user_attrs), default=0)


def _impossible_in_a_row(trials: list[FrozenTrial]) -> int:
    """How many of the last draws had impossible values; those that say nothing of values are passed over."""
    told = [trial for trial in trials if not {"freed", "given_back"} & trial.user_attrs.keys()]
    ended = [trial for trial in told if trial.state.is_finished()]
    return sum(1 for _ in itertools.takewhile(lambda trial: "reason" in trial.user_attrs, reversed(ended)))
