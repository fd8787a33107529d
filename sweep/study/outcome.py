"""Read from a run's record how the trial that asked for the run ends."""

from __future__ import annotations

from typing import Any, NamedTuple

from optuna.trial import TrialState

from sweep.jobs.job import Job
from sweep.store.records import COMPLETE, DROPPED, Record
from sweep.study.config import SearchConfig
from sweep.study.curves import alike, front_curve
from sweep.study.objectives import RECOVERED, STORED, VALUES, UndefinedError, metrics_of, value_in

# User attributes of trials that the frontier's pruner reads.
CURVE, ALIKE = "curve", "alike"  # [[percent of training, FVU], ...] of a complete run; `sweep.study.curves.alike`


class Outcome(NamedTuple):
    """The end of a trial: its state, its values and its user attributes."""

    state: TrialState
    values: list[float] | None  # in the order of the study's objectives; None unless the trial is complete
    marks: dict[str, Any]  # user attributes that the trial gets


def job_marks(job: Job) -> dict[str, Any]:
    """Return the user attributes that a trial gets before its run starts: they say which run it asks for."""
    axes = job.axes
    return {
        "run_id": job.spec.run_id,
        "launch": job.launch,
        "arm": job.labels["arm"],
        "layer": axes["layer"],
        **{axis: axes[axis] for axis in ("d", "k", "n", "seed")},
        ALIKE: alike(job),
    }


def outcome_of(record: Record | None, config: SearchConfig, why: str = "it left no record") -> Outcome:
    """Return how a trial ends if its run has left `record`.

    Args:
        why: the error of a run without a record.
    """
    if record is None:
        return failed(why)
    if record["status"] == DROPPED:
        return dropped(record["dropped"]["why"], record["dropped"]["step"], record["timings"]["total"])
    if record["status"] != COMPLETE:
        return failed(record.get("error", "unknown error"))
    try:
        aims = {name: value_in(record, name, config.inference) for name in config.directions}
    except UndefinedError as error:
        return failed(str(error))
    storage, metrics = record["storage"], metrics_of(record, config.inference)
    marks = {
        STORED: storage["artifact_bytes"],
        VALUES: storage[VALUES],
        **{name: metrics[name] for name in (RECOVERED, "delta_ce") if metrics.get(name) is not None},
        "seconds": record["timings"]["total"],
    }
    marks |= {name: value for name, value in aims.items() if name not in marks}
    if curve := front_curve(record):
        marks[CURVE] = curve
    return Outcome(TrialState.COMPLETE, list(aims.values()), marks)


def dropped(why: str, step: int, seconds: float) -> Outcome:
    """Return the outcome of a trial whose run was ended early at a step of its training."""
    return Outcome(TrialState.PRUNED, None, {"dropped": why, "dropped_at": step, "seconds": seconds})


def failed(error: str) -> Outcome:
    """Return the outcome of a trial whose run failed."""
    return Outcome(TrialState.FAIL, None, {"error": error})


def impossible(reason: str) -> Outcome:
    """Return the outcome of a trial whose values no run can have: it is never trained and does not count as a trial."""
    return Outcome(TrialState.FAIL, None, {"reason": reason})
