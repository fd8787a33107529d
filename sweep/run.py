"""One run: activations -> build -> train -> evaluate -> record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from sae_core import io
from sae_core.arms.base import DerivedArm, FittedArm
from sae_core.inference import ENCODER
from sae_core.kernels.dispatch import backend_name
from sae_core.sae import SAE
from sae_core.storage import count_storage
from sweep.activations import CacheKey, Pool, check_disk, ensure_pools, entry_bytes, open_pool
from sweep.build import Job
from sweep.examine import examine
from sweep.lm import device_from
from sweep.measures import Baselines, EvaluationError, baselines
from sweep.process import keep_freed_memory, long_lived_objects_kept
from sweep.progress import RunProgress
from sweep.recording import log, recorded, start_tracker
from sweep.recovery import RecoveryJob, recover
from sweep.shared import held_out_of, lm_of, train_windows_of
from sweep.store import COMPLETE, CURVE_POINTS, Record, read_record, run_folder, write_record
from sweep.tracking import Guarded
from sweep.train import CheckpointError, Progress, Training, train

CHECKPOINT = "checkpoint.pt"
_CURVES = ("tokens", "loss", "fvu", "dead_fraction")
_FIT_ROWS = 8192  # of the pool, read at once where parameters are not found by gradient


class SourceError(ValueError):
    """The run that this one starts from, or is compared with, failed or cannot be read."""


def carry_out(job: Job | RecoveryJob) -> Record:
    """Do what `job` asks for, whichever kind it is; return its record."""
    return recover(job) if isinstance(job, RecoveryJob) else run(job)


def run(job: Job) -> Record:
    """Carry out `job` unless its record is complete already; return the record.

    A complete record that lacks a measurement asked for gets it, without training again. After a failure the next
    launch tries again, after an interrupt it resumes from the last checkpoint. Two processes that ask for the same run:
    one works, the other waits.
    """
    folder = run_folder(job.runs_dir, job.spec.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    # Before the own lock: two runs may need each other.
    for needed in _needed(job, read_record(job.runs_dir, job.spec.run_id)):
        with closing(RunProgress(folder)) as say:
            say(f"first {needed.title}")
            run(needed)
    with FileLock(folder / "lock"):
        keep_freed_memory()
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        record = read_record(job.runs_dir, job.spec.run_id)
        if record is None or record["status"] != COMPLETE:
            record = recorded(job, folder, job.info.d_model, partial(_carry_out, job, folder), job.save_artifact)
            (folder / CHECKPOINT).unlink(missing_ok=True)
        elif job.lacking(record):
            _measure_again(job, folder, record)
        return record


def _needed(job: Job, record: Record | None) -> list[Job]:
    """The runs that must be finished before this one can start or be measured."""
    complete = record is not None and record["status"] == COMPLETE
    source = None if complete else job.source
    compared = "novelty" in job.lacking(record or {})
    return [needed for needed in (source, job.reference if compared else None) if needed is not None]


def _measure_again(job: Job, folder: Path, record: Record) -> None:
    """Add to a complete record, in place and on disk, the measurements that `job` asks for and it lacks."""
    say = RunProgress(folder)
    tracker = Guarded(lambda: start_tracker(job, folder))
    try:
        device = device_from(job.device)
        sae = io.load(folder, device, job.backend)
        if held_out_of(job).digest() != record["metrics"]["held_out_digest"]:
            raise EvaluationError(
                "the held-out windows are not those of the run's other figures: has the text changed?"
            )
        base = Baselines(**{field.name: record["metrics"][field.name] for field in fields(Baselines)})
        examine(job, sae, device, base, record, say, partial(_load, device))
        write_record(job.runs_dir, record)
        tracker.summary(record)
        log(folder, f"measured: {', '.join(record['inference'])}")
    finally:
        say.close()
        tracker.finish(failed=False)


def preflight(job: Job | RecoveryJob, layers: Sequence[int]) -> None:
    """Find out before any LM is loaded whether text and disk will do.

    Args:
        layers: those that the launch needs of the job's LM and text.

    Raises:
        ValueError: one of them will not, which one and why.
    """
    job.runs_dir.mkdir(parents=True, exist_ok=True)
    if isinstance(job, RecoveryJob):
        return
    missing = [key for key in _keys(job, layers) if not (job.cache_dir / key.name).is_dir()]
    if missing:
        check_disk(job.cache_dir, len(missing) * entry_bytes(job.spec.activations.tokens, job.info.d_model))
        train_windows_of(job)
    held_out_of(job)


def _carry_out(job: Job, folder: Path, record: Record, tracker: Guarded, say: RunProgress) -> None:
    timings = record["timings"]
    device = device_from(job.device)
    with _timed(timings, "activations"):
        pool = _pool(job, device, say)
    record["versions"]["backend"] = backend_name(job.backend, device)
    source = _source(job, device, record)
    with _timed(timings, "training"), long_lived_objects_kept():
        sae, training = _train(job, folder, source, pool, device, tracker, say)
    _say_training(job, record, pool, training)
    about = {"spec": job.spec.as_json(), "labels": job.labels}
    record["storage"] = count_storage(sae)._asdict() | {"artifact_bytes": io.save(sae, folder, about)}
    with _timed(timings, "evaluation"):
        held_out = held_out_of(job)
        base = _baselines(job, pool, device, say)
        examine(job, sae, device, base, record, say, partial(_load, device))
    own = record["inference"][ENCODER]
    if "error" in own:
        raise EvaluationError(own["error"])
    record["metrics"] = {**own["metrics"], **_last(training.reports), "held_out_digest": held_out.digest()}


def _source(job: Job, device: torch.device, record: Record) -> SAE | None:
    """The trained SAE that the arm starts from, where it does; what it cost goes into the record."""
    source = job.source
    if source is None:
        return None
    sae, run_id = _load(device, source)
    made = read_record(job.runs_dir, run_id) or {}
    recipe = source.spec.train
    own = {"tokens": recipe.steps * recipe.batch_size, "seconds": made["timings"]["training"]}
    costs = [made.get("training", own), *([made["source"]] if "source" in made else [])]
    total = {key: sum(cost[key] for cost in costs) for key in ("tokens", "seconds")}
    record["source"] = {"run_id": run_id, "arm": source.spec.arm.label, **total}
    return sae


def _load(device: torch.device, job: Job) -> tuple[SAE, str]:
    """(the SAE of a finished run, its run id)."""
    run_id = job.spec.run_id
    record, folder = read_record(job.runs_dir, run_id) or {}, run_folder(job.runs_dir, run_id)
    if record.get("status") != COMPLETE:
        raise SourceError(f"{run_id}, {job.title}, which this run needs, failed: {record.get('error')}")
    try:
        return io.load(folder, device, job.backend), run_id
    except io.SAEFileError as error:
        raise SourceError(f"{job.title}, which this run needs: {error}; remove {folder} to train it again") from None


def _say_training(job: Job, record: Record, pool: Pool, training: Training) -> None:
    recipe, arm, seconds = job.spec.train, job.spec.arm, round(training.seconds, 3)
    if arm.by_gradient:
        steps, tokens = recipe.steps, recipe.steps * recipe.batch_size
        record["timings"]["train_tokens_per_second"] = round(tokens / training.seconds)
    else:
        steps, tokens = 0, pool.tokens if isinstance(arm, FittedArm) else 0
    record["training"] = {"steps": steps, "tokens": tokens, "seconds": seconds}
    if arm.schedule is not None:
        record["training"]["exchanged"] = training.exchanged
    every = -(-len(training.reports) // CURVE_POINTS) or 1
    kept = training.reports[::-1][::every][::-1]  # the last one among them
    record["curves"] = {key: [getattr(report, key) for report in kept] for key in _CURVES}


def _last(reports: list[Progress]) -> dict[str, float]:
    """What training said at its end."""
    if not reports:
        return {}
    last = reports[-1]
    dead = {"train_dead_fraction": last.dead_fraction, "train_dead_tokens": last.dead_tokens}
    return {"train_fvu": last.fvu, **dead}


def _pool(job: Job, device: torch.device, say: RunProgress) -> Pool:
    say("activations")
    ensure_pools(
        job.cache_dir,
        _keys(job, job.layers_together),
        lambda: (lm_of(job, device), train_windows_of(job)),
        job.model.batch_size,
        on_progress=lambda done, total: say("LM pass", done, total),
        on_wait=lambda: say("waiting for another run's LM pass"),
    )
    pool = open_pool(job.cache_dir, job.spec.activations)
    assert pool is not None, "ensure_pools has made it"
    return pool


def _keys(job: Job, layers: Sequence[int]) -> list[CacheKey]:
    return [replace(job.spec.activations, layer=layer) for layer in layers]


def _build_sae(job: Job, source: SAE | None, pool: Pool, device: torch.device) -> SAE:
    arm = job.spec.arm
    if source is not None and isinstance(arm, DerivedArm):
        sae = arm.derive(source)
    else:
        scale = pool.d_in**0.5 / pool.mean_norm if job.spec.train.input_scale == "unit" else 1.0
        sae = arm.build(pool.d_in, job.spec.seed, scale)
    sae.backend = job.backend
    return sae.to(device)


def _train(
    job: Job, folder: Path, source: SAE | None, pool: Pool, device: torch.device, tracker: Guarded, say: RunProgress
) -> tuple[SAE, Training]:
    """The trained SAE, and how that went."""
    arm, recipe = job.spec.arm, job.spec.train

    def report(progress: Progress) -> None:
        tracker.curve(progress)
        say("training", progress.step, recipe.steps, f"loss {progress.loss:.3g}  FVU {progress.fvu:.3f}")

    def fit(sae: SAE) -> tuple[SAE, Training]:
        seed, checkpoint = job.spec.seed, folder / CHECKPOINT
        return sae, train(
            sae, pool.rows, pool.tokens, pool.total_variance, recipe, seed, checkpoint, report, arm.schedule
        )

    log(folder, f"training {job.title}")
    sae = _build_sae(job, source, pool, device)
    if not arm.by_gradient:
        started = time.perf_counter()
        if isinstance(arm, FittedArm):
            arm.fit(sae, _all_rows(pool))
        return sae, Training([], time.perf_counter() - started, 0)
    try:
        return fit(sae)
    except CheckpointError as error:
        log(folder, f"{error}; starting over")
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return fit(_build_sae(job, source, pool, device))


def _all_rows(pool: Pool) -> Iterator[torch.Tensor]:
    for first in range(0, pool.tokens, _FIT_ROWS):
        yield pool.rows(np.arange(first, min(first + _FIT_ROWS, pool.tokens)))


def _baselines(job: Job, pool: Pool, device: torch.device, say: RunProgress) -> Baselines:
    say("baselines")
    return baselines(
        lambda: lm_of(job, device),
        job.axes["layer"],
        held_out_of(job),
        pool.mean,
        job.model.batch_size,
        job.cache_dir / "baselines",
        key=f"{job.spec.activations.lm}:{job.model.dtype}",
    )


@contextmanager
def _timed(timings: dict[str, Any], stage: str):
    started = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - started, 3)
