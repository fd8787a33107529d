"""Read from a run's record how the trial that asked for the run ends."""

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
    """The end of a trial: its state, its values and its user attributes."""

    state: TrialState
    values: list[float] | None  # in the order of the study's objectives; None unless the trial is complete
    marks: dict[str, Any]  # user attributes that the trial gets


def job_marks(job: Job) -> dict[str, Any]:
    """Return the user attributes that a trial gets before its run starts: they say which run it asks for."""
    axes = job.axes
    return {
        "run_id": job.spec.run_id,
        "arm": job.labels["arm"],
        "layer": axes["layer"],
        **{axis: axes[axis] for axis in ("d", "k", "n", "seed")},
    }


def outcome_of(record: Record | None, config: SearchConfig, why: str = "it left no record") -> Outcome:
    """Return how a trial ends if its run has left `record`.

    Args:
        why: the error of a run without a record.
    """
    if record is None:
        return failed(why)
    if record["status"] != COMPLETE:
        return failed(record.get("error", "unknown error"))
    metrics = metrics_of(record, config.inference)
    value = metrics.get("ce_recovered")
    if "ce_recovered" in metrics and value is None:
        return failed(
            "CE recovered is undefined, so the run has no rank: zero ablation does not clearly cost the LM anything "
            f"(from {metrics['ce_clean']:.4f} to {metrics['ce_zero']:.4f} nats)"
        )
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
    """Return a record's metrics with the codes found by `inference`; empty where that was not measured."""
    if inference == ENCODER:
        return record["metrics"]
    return record.get("inference", {}).get(inference, {}).get("metrics", {})
