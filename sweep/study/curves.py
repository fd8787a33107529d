"""The curves of runs as a search compares them: FVU in training, where less is better, by percent of the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sweep.jobs.job import Job
from sweep.store.hashes import short_hash
from sweep.store.records import Record, read_curve
from sweep.study.samplers import RUNGS

FRONT_RUNGS = 20  # points of its training at which a run is compared with the front


def rungs(curve: Iterable[tuple[float, float]], steps: int, count: int = RUNGS) -> Iterator[tuple[int, float]]:
    """Yield (percent of training, FVU) of the first report at or after each of `count` equal parts of the training.

    Args:
        curve: (step, FVU) of each report, by rising step.
        steps: how many the whole training has.
    """
    reached = 0
    for step, fvu in curve:
        rung = int(count * step // steps)
        if rung > reached:
            reached = rung
            yield 100 * rung // count, fvu


def curve_of(folder: Path) -> list[tuple[float, float]]:
    """Return (step, FVU) of the reports so far of the run in `folder`."""
    return [(report["step"], report["fvu"]) for report in read_curve(folder) if report.get("fvu") is not None]


def recorded_curve(record: Record, batch_size: int) -> list[tuple[float, float]]:
    """Return (step, FVU) of the points of a finished run's curve that its record keeps."""
    curves = record.get("curves", {})
    pairs = zip(curves.get("tokens", []), curves.get("fvu", []), strict=True)
    return [(tokens / batch_size, fvu) for tokens, fvu in pairs]


def front_curve(record: Record) -> list[tuple[int, float]]:
    """Return (percent of training, FVU) of a finished run at the points where others are compared with it.

    Empty for an SAE that no training by gradient made.
    """
    train = record.get("spec", {}).get("train", {})
    if "steps" not in train or "batch_size" not in train:
        return []
    return list(rungs(recorded_curve(record, train["batch_size"]), train["steps"], FRONT_RUNGS))


def alike(job: Job) -> str:
    """Return a key that the jobs have in common whose curves can be compared at each percent of the training.

    They train on as many tokens of the same activations, those of the SAE that they start from included. Where values
    are rounded from some point on, they are rounded alike: until then the FVU is that of values which are not stored.
    """
    rounding = job.spec.arm.rounding
    return short_hash(job.spec.as_json()["activations"], _tokens(job), rounding and list(rounding))


def _tokens(job: Job) -> list[int]:
    """Return the tokens of the run's own training and of each that it starts from."""
    start, train = job.starts_from, job.spec.train
    return [train.steps * train.batch_size, *(_tokens(start) if start is not None else [])]
