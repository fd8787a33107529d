"""Read from a run and its record what becomes of the trial that asked for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from optuna.trial import TrialState

from sae_core.inference import ENCODER
from sweep.jobs.job import Job
from sweep.store.records import COMPLETE, Record
from sweep.study.config import SearchConfig


class Outcome(NamedTuple):
    """The end of a trial: its state, its values and what else is noted."""

    state: TrialState
    values: list[float] | None  # a complete trial's, in the order of the study's objectives
    marks: dict[str, Any]  # the trial's user attributes


def job_marks(job: Job) -> dict[str, Any]:
    """Return the user attributes that a trial has before its run: they say which run it is."""
    axes = job.axes
    return {
        "run_id": job.spec.run_id,
        "arm": job.labels["arm"],
        "layer": axes["layer"],
        **{axis: axes[axis] for axis in ("d", "k", "n", "seed")},
    }


def outcome_of(record: Record | None, config: SearchConfig, why: str = "it left no record") -> Outcome:
    """Return how the trial ends whose run has left `record`.

    Args:
        why: the error of a run without a record.
    """
    if record is None:
        return failed(why)
    if record["status"] != COMPLETE:
        return failed(record.get("error", "unknown error"))
    metrics = metrics_of(record, config.inference)
    value = metrics.get("ce_recovered")
    if value is None or not math.isfinite(value):
        reading = record.get("inference", {}).get(config.inference, {})
        return failed(f"no CE recovered by {config.inference}: {reading.get('error', 'not measured')}")
    storage = record["storage"]
    marks = {
        "stored_bytes": storage["artifact_bytes"],
        "learned_decoder_values": storage["learned_decoder_values"],
        "ce_recovered": value,
        "delta_ce": metrics["delta_ce"],
        "seconds": record["timings"]["total"],
    }
    return Outcome(TrialState.COMPLETE, [float(marks[name]) for name in config.objectives], marks)


def failed(error: str) -> Outcome:
    """Return the outcome of a trial whose run failed."""
    return Outcome(TrialState.FAIL, None, {"error": error})


def impossible(reason: str) -> Outcome:
    """Return the outcome of a trial whose values no run can have: it is never trained and does not count as a trial."""
    return Outcome(TrialState.FAIL, None, {"reason": reason})


def metrics_of(record: Record, inference: str) -> Mapping[str, Any]:
    """Return the metrics of a record with codes read by `inference`; empty where that was not measured."""
    if inference == ENCODER:
        return record["metrics"]
    return record.get("inference", {}).get(inference, {}).get("metrics", {})
