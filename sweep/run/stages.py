"""The stages of one run: activations -> build -> train -> evaluate."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core import io
from sae_core.arms.base import DerivedArm, FittedArm
from sae_core.inference import ENCODER
from sae_core.kernels.dispatch import backend_name
from sae_core.sae import SAE
from sae_core.storage import count_storage
from sweep.activations.cache import CacheKey, DamagedEntryError, Pool, ensure_pools, open_pool
from sweep.activations.local_copy import stage
from sweep.jobs.job import Job
from sweep.machine.gpus import device_from
from sweep.measures.baselines import Baselines, baselines
from sweep.measures.config import EvaluationError
from sweep.run.examine import examine
from sweep.run.loaded import held_out_of, lm_of, pool_of, train_windows_of
from sweep.run.recording import Recording, log
from sweep.store.hashes import file_hash
from sweep.store.progress import RunProgress
from sweep.store.records import (
    CHECKPOINT,
    COMPLETE,
    CURVE,
    CURVE_POINTS,
    RECORD,
    WEIGHTS,
    Record,
    read_record,
    run_folder,
    stop_file,
)
from sweep.store.versions import CODE
from sweep.train.config import TrainingError
from sweep.train.loop import Training, training
from sweep.train.state import CheckpointError, Progress
from sweep.train.streams import BatchRequest, Delivery, Stream

_CURVES = ("tokens", "loss", "fvu", "dead_fraction")
_FIT_ROWS = 8192  # of the pool, read at once where parameters are not found by gradient

Steps = Generator[BatchRequest, Delivery, Any]  # asks for batches, see `sweep.train.streams`


class NeededRunError(ValueError):
    """The run that this one starts from, or is compared with, failed or cannot be read."""


def carry_out_stages(job: Job, folder: Path, recording: Recording) -> Steps:
    """Fill the record in, and leave the SAE in `folder`; the training asks for its batches."""
    record, _, say = recording
    timings = record["timings"]
    device = device_from(job.device)
    with _timed(timings, "activations"):
        pool = _pool(job, device, folder, say)
    record["versions"]["backend"] = backend_name(job.backend, device)
    start = _starting_sae(job, device, record)
    with _timed(timings, "training"):
        sae, trained = yield from _train(job, folder, start, pool, device, recording)
    _say_training(job, record, pool, trained)
    about = {"spec": job.spec.as_json(), "labels": job.labels}
    record["storage"] = count_storage(sae)._asdict() | {"artifact_bytes": io.save(sae, folder, about)}
    record[WEIGHTS] = file_hash(folder / io.WEIGHTS_FILE)
    with _timed(timings, "evaluation"):
        held_out = held_out_of(job)
        base = _baselines(job, pool, device, say)
        examine(job, sae, device, base, record, say, partial(load_sae, device))
    own = record["inference"][ENCODER]
    if "error" in own:
        raise EvaluationError(own["error"])
    record["metrics"] = {**own["metrics"], **_last(trained.reports), "held_out_digest": held_out.digest()}


def _starting_sae(job: Job, device: torch.device, record: Record) -> SAE | None:
    """The trained SAE that the arm starts from, where it does; what it cost goes into the record."""
    needed = job.starts_from
    if needed is None:
        return None
    sae, run_id = load_sae(device, needed)
    made = read_record(job.runs_dir, run_id) or {}
    recipe = needed.spec.train
    own = {"tokens": recipe.steps * recipe.batch_size, "seconds": made["timings"]["training"]}
    costs = [made.get("training", own), *([made["source"]] if "source" in made else [])]
    total = {key: sum(cost[key] for cost in costs) for key in ("tokens", "seconds")}
    record["source"] = {"run_id": run_id, "arm": needed.spec.arm.label, **total}
    return sae


def load_sae(device: torch.device, job: Job) -> tuple[SAE, str]:
    """(the SAE of a finished run, its run id).

    Raises:
        NeededRunError: the run failed, or its SAE cannot be read; its record is then set aside, and it counts as not made.
    """
    run_id = job.spec.run_id
    record, folder = read_record(job.runs_dir, run_id) or {}, run_folder(job.runs_dir, run_id)
    if record.get("status") != COMPLETE:
        why = record.get("error", "it left no record")
        raise NeededRunError(f"{run_id}, {job.title}, which this run needs, failed: {why}")
    try:
        return read_sae(device, job, record), run_id
    except io.SAEFileError as error:
        with suppress(OSError):
            os.replace(folder / RECORD, folder / f"{RECORD}.damaged")
        raise NeededRunError(f"{job.title}, which this run needs: {error}; the same command trains it again") from None


def read_sae(device: torch.device, job: Job, record: Record) -> SAE:
    """The SAE of a finished run. Raises SAEFileError where its files are not those that the run left."""
    folder = run_folder(job.runs_dir, job.spec.run_id)
    sae = io.load(folder, device, job.backend)
    if record.get(WEIGHTS) not in (None, file_hash(folder / io.WEIGHTS_FILE)):  # None: of before there was a checksum
        raise io.SAEFileError(f"{folder / io.WEIGHTS_FILE} does not match its checksum")
    return sae


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


def _pool(job: Job, device: torch.device, folder: Path, say: RunProgress) -> Pool:
    """The opened pool; an entry or a local copy that turns out damaged is made again, once."""
    try:
        return _made_and_opened(job, device, say)
    except DamagedEntryError as error:
        log(folder, f"{error}; made again")
        if job.cache_local is not None:  # what it is copied from may be what is damaged
            with suppress(DamagedEntryError):
                open_pool(job.cache_dir, job.spec.activations)
        return _made_and_opened(job, device, say)


def _made_and_opened(job: Job, device: torch.device, say: RunProgress) -> Pool:
    say("activations")
    key, where = job.spec.activations, job.cache_local or job.cache_dir
    if job.cache_local is None or not (job.cache_local / key.name).is_dir():
        ensure_pools(
            job.cache_dir,
            keys_of(job, job.layers_together),
            lambda: (lm_of(job, device), train_windows_of(job)),
            job.model.batch_size,
            on_progress=lambda done, total: say("LM pass", done, total),
            on_wait=lambda: say("waiting for another run's LM pass"),
        )
    if job.cache_local is not None:
        stage(job.cache_dir, key, job.cache_local, on_copy=lambda: say("copying activations"))
    pool = pool_of(where, key)
    assert pool is not None, "it has been made"
    return pool


def keys_of(job: Job, layers: Sequence[int]) -> list[CacheKey]:
    """The activation entries of `layers`, else as the job's."""
    return [replace(job.spec.activations, layer=layer) for layer in layers]


def _build_sae(job: Job, start: SAE | None, pool: Pool, device: torch.device) -> SAE:
    arm = job.spec.arm
    if start is not None and isinstance(arm, DerivedArm):
        sae = arm.derive(start)
    else:
        scale = pool.d_in**0.5 / pool.mean_norm if job.spec.train.input_scale == "unit" else 1.0
        sae = arm.build(pool.d_in, job.spec.seed, scale)
    sae.backend = job.backend
    return sae.to(device)


def _train(
    job: Job, folder: Path, start: SAE | None, pool: Pool, device: torch.device, recording: Recording
) -> Generator[BatchRequest, Delivery, tuple[SAE, Training]]:
    """The trained SAE, and how that went."""
    log(folder, f"training {job.title}")
    sae = _build_sae(job, start, pool, device)
    if not job.spec.arm.by_gradient:
        started = time.perf_counter()
        if isinstance(job.spec.arm, FittedArm):
            job.spec.arm.fit(sae, _all_rows(pool))
        return sae, Training([], time.perf_counter() - started, 0, ())
    try:
        return sae, (yield from _fit(job, folder, sae, pool, recording))
    except TrainingError:  # going on from there would end the same way
        (folder / CHECKPOINT).unlink(missing_ok=True)
        raise
    except CheckpointError as error:
        log(folder, f"{error}; starting over")
        (folder / CHECKPOINT).unlink(missing_ok=True)
        sae = _build_sae(job, start, pool, device)
        return sae, (yield from _fit(job, folder, sae, pool, recording))


def _fit(
    job: Job, folder: Path, sae: SAE, pool: Pool, recording: Recording
) -> Generator[BatchRequest, Delivery, Training]:
    recipe, (record, tracker, say) = job.spec.train, recording
    stream = Stream(pool.rows, pool.tokens, job.spec.seed, recipe.batch_size, sae.b_dec.device, recipe.steps)
    stop = stop_file(folder, job.labels["sweep"])

    def report(progress: Progress) -> None:
        tracker.curve(progress)
        say("training", progress.step, recipe.steps, f"loss {progress.loss:.3g}  FVU {progress.fvu:.3f}")
        with suppress(OSError), open(folder / CURVE, "a") as curve:
            curve.write(json.dumps(progress._asdict()) + "\n")

    trained = yield from training(
        sae, stream, pool.total_variance, recipe, folder / CHECKPOINT, report, job.spec.arm.schedule, stop.exists,
        record["versions"][CODE],
    )  # fmt: skip
    if trained.codes != (record["versions"][CODE],):
        record["versions"]["trained_by"] = list(trained.codes)
    return trained


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
