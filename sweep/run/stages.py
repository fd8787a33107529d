"""The stages of one run: activations, training, saving and measuring. Each fills in its part of the record."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core import io
from sae_core.arms import Quantised
from sae_core.arms.base import FittedArm
from sae_core.arms.recoded import RecodedArm
from sae_core.inference import ENCODER
from sae_core.kernels.dispatch import backend_name
from sae_core.quantised import keep_rounded
from sae_core.sae import SAE
from sae_core.storage import count_storage, planned_counts
from sweep.activations.cache import Pool
from sweep.activations.feed import FedPool
from sweep.jobs.job import Job
from sweep.lm.dtype import FLOAT32
from sweep.lm.model import load_lm
from sweep.machine.gpus import device_from
from sweep.machine.process import forget_peak_memory, peak_memory
from sweep.measures.baselines import Baselines, baselines
from sweep.measures.clean import CleanPass, batch_size_within
from sweep.measures.config import EvaluationError
from sweep.measures.rounding import float32_cross_entropy
from sweep.run.examine import examine
from sweep.run.examine_samples import examine_samples
from sweep.run.finished import load_sae
from sweep.run.loaded import held_out_of, held_out_samples_of, positions_of
from sweep.run.pools import ready_clean_pass, ready_pool
from sweep.run.recording import Recording, log
from sweep.run.survival import compressed_part, survival
from sweep.store.hashes import file_hash
from sweep.store.once_said import say_once
from sweep.store.progress import RunProgress
from sweep.store.records import CHECKPOINT, CURVE, CURVE_POINTS, SYNTHETIC, WEIGHTS, Record, read_record, stop_asked
from sweep.store.versions import CODE
from sweep.train.config import TrainingError
from sweep.train.loop import Training, training
from sweep.train.state import CheckpointError, Progress
from sweep.train.streams import Batches, FedStream, Stream, Trainee

_CURVES = ("tokens", "loss", "fvu", "dead_fraction")  # the fields of a report that a record keeps
_FIT_ROWS = 8192  # activations read at once where an arm's parameters are not found by gradient


def carry_out_stages(job: Job, folder: Path, recording: Recording) -> Trainee[None]:
    """Fill in the record, and leave the SAE in `folder`.

    This is a generator: it yields a request whenever the training needs a batch, so that runs can share batches
    (`sweep.train.streams`).
    """
    record, _, say = recording
    timings = record["timings"]
    device = device_from(job.device)
    with _timed(timings, "activations"):
        pool = ready_pool(job, device, folder, say)
    record["versions"]["backend"] = backend_name(job.backend, device)
    record["activations"] = _about(pool, folder)
    with _timed(timings, "baselines"):
        measure = _ready_to_measure(job, folder, pool, device, recording)
    start = _starting_sae(job, device, record)
    forget_peak_memory()
    with _timed(timings, "training"):
        sae, trained = yield from _train(job, folder, start, pool, device, recording)
    original, rounding = None, job.spec.arm.rounding
    if isinstance(job.spec.arm, (Quantised, RecodedArm)):
        original = start
    elif rounding is not None:
        original = keep_rounded(sae, rounding.bits, rounding.encoder_bits)
    _record_training(job, record, pool, trained)
    _save(job, folder, sae, record)
    with _timed(timings, "evaluation"):
        yield from measure(sae, original)
    own = record["inference"][ENCODER]
    if "error" in own:
        raise EvaluationError(own["error"])
    record["metrics"] = {**own["metrics"], **_last(trained.reports), "held_out_digest": held_out_of(job).digest()}


def _ready_to_measure(
    job: Job, folder: Path, pool: Pool | FedPool, device: torch.device, recording: Recording
) -> Callable[[SAE, SAE | None], Trainee[None]]:
    """Make ready what SAEs are measured against, and return the function that measures one, given its original."""
    record, _, say = recording
    if job.spec.synthetic is not None:
        record["kind"] = SYNTHETIC
        say("held-out samples")
        held_out_samples_of(job)
        return lambda sae, original: examine_samples(job, sae, record, say, original)
    clean = ready_clean_pass(job, device, positions_of(job, pool.norms), say)
    base = _baselines(job, pool, clean, say)
    record["lm"] = _about_dtype(job, base, device, say)
    _warn_of_undefined(job, base, folder)
    load, smaller = partial(load_sae, device), compressed_part(job.spec.arm)

    def measure(sae: SAE, original: SAE | None) -> Trainee[None]:
        yield from examine(job, sae, clean, base, record, say, load, original)
        if smaller is not None:
            say("latents before and after")
            record["survival"] = survival(smaller, sae, _sample(job, pool), clean, folder)

    return measure


def _starting_sae(job: Job, device: torch.device, record: Record) -> SAE | None:
    """Return the trained SAE that the arm starts from, or None; put the cost of that SAE's training into the record."""
    needed = job.starts_from
    if needed is None:
        return None
    sae, run_id = load_sae(device, needed)
    made = read_record(job.runs_dir, run_id) or {}
    recipe = needed.spec.train
    # Older records do not say how many tokens their training took.
    own = {"tokens": recipe.steps * recipe.batch_size, "seconds": made["timings"]["training"]}
    costs = [made.get("training", own), *([made["source"]] if "source" in made else [])]
    total = {key: sum(cost[key] for cost in costs) for key in ("tokens", "seconds")}
    record["source"] = {"run_id": run_id, "arm": needed.spec.arm.label, **total}
    return sae


def scale_of(job: Job, pool: Pool | FedPool) -> float:
    """Return the scalar that activations are multiplied with: it brings their mean norm to sqrt(d_in), or is 1."""
    return pool.d_in**0.5 / pool.mean_norm if job.spec.train.input_scale == "unit" else 1.0


def _sample(job: Job, pool: Pool | FedPool) -> torch.Tensor | None:
    """Return the activations that the arm looks at when it builds an SAE; None where it looks at none."""
    count = job.spec.arm.sample_tokens
    return batches(job, pool, torch.device("cpu")).sample(1, count) if count else None


def _build_sae(job: Job, start: SAE | None, pool: Pool | FedPool, device: torch.device) -> SAE:
    """Return the untrained SAE of the job, or the one that the arm makes of the trained SAE `start`."""
    arm, seeds = job.spec.arm, job.spec.seeds
    sample = _sample(job, pool)
    if start is not None:
        sae = arm.derive(start, seeds.values, sample)
    else:
        sae = arm.build(pool.d_in, seeds.values, scale_of(job, pool), sample, seeds.support)
    sae.backend = job.backend
    return sae.to(device)


def _train(
    job: Job, folder: Path, start: SAE | None, pool: Pool | FedPool, device: torch.device, recording: Recording
) -> Trainee[tuple[SAE, Training]]:
    """Train the SAE by gradient, or find its parameters in the arm's own way; return (SAE, finished training)."""
    log(folder, f"training {job.title}")
    sae, checkpoint = _build_sae(job, start, pool, device), folder / CHECKPOINT
    if not job.spec.arm.by_gradient:
        started = time.perf_counter()
        if isinstance(job.spec.arm, FittedArm):
            job.spec.arm.fit(sae, _all_rows(pool))
        return sae, Training(reports=[], seconds=time.perf_counter() - started, exchanged=0, code_hashes=())
    try:
        trained = yield from _training(job, folder, sae, pool, recording)
    except TrainingError:  # a training that goes on from its checkpoint would end the same way
        checkpoint.unlink(missing_ok=True)
        raise
    except CheckpointError as error:
        log(folder, f"{error}; starting over")
        checkpoint.unlink(missing_ok=True)
        sae = _build_sae(job, start, pool, device)
        trained = yield from _training(job, folder, sae, pool, recording)
    versions = recording.record["versions"]
    if trained.code_hashes != (versions[CODE],):  # other program code did a part of the training
        versions["trained_by"] = list(trained.code_hashes)
    return sae, trained


def _training(job: Job, folder: Path, sae: SAE, pool: Pool | FedPool, recording: Recording) -> Trainee[Training]:
    """Return the SAE's training by gradient, from its checkpoint if there is one.

    Its reports go to the tracker, to the terminal and to the run's curve file.
    """
    recipe, (record, tracker, say) = job.spec.train, recording

    def report(progress: Progress) -> None:
        tracker.curve(progress)
        say("training", progress.step, recipe.steps, f"loss {progress.loss:.3g}  FVU {progress.fvu:.3f}")
        with suppress(OSError), open(folder / CURVE, "a") as curve:
            curve.write(json.dumps(progress._asdict()) + "\n")

    return training(
        sae,
        batches(job, pool, sae.b_dec.device),
        pool.total_variance,
        recipe,
        folder / CHECKPOINT,
        report,
        job.spec.arm.schedule,
        job.spec.arm.rounding,
        partial(stop_asked, folder, job.launch),
        record["versions"][CODE],
    )


def batches(job: Job, pool: Pool | FedPool, device: torch.device) -> Batches:
    """Return the batches that the job trains on."""
    recipe, seed = job.spec.train, job.spec.seeds.order
    if isinstance(pool, FedPool):
        return FedStream(pool.feed.batch, pool.feed.sample, pool.layer, device, seed, recipe.steps)
    return Stream(pool.rows, pool.tokens, seed, recipe.batch_size, device, recipe.steps)


def _all_rows(pool: Pool | FedPool) -> Iterator[torch.Tensor]:
    if isinstance(pool, FedPool):
        yield from pool.feed.all_rows(pool.layer)
        return
    for first in range(0, pool.tokens, _FIT_ROWS):
        yield pool.rows(np.arange(first, min(first + _FIT_ROWS, pool.tokens)))


def _record_training(job: Job, record: Record, pool: Pool | FedPool, training: Training) -> None:
    """Put into the record what training took, and its curves."""
    recipe, arm, seconds = job.spec.train, job.spec.arm, round(training.seconds, 3)
    if arm.by_gradient:
        steps, tokens = recipe.steps, recipe.steps * recipe.batch_size
        record["timings"]["train_tokens_per_second"] = round(tokens / training.seconds)
    else:
        steps, tokens = 0, arm.fit_tokens(pool.tokens) if isinstance(arm, FittedArm) else 0
    record["training"] = {"steps": steps, "tokens": tokens, "seconds": seconds}
    if (peak := peak_memory()) is not None:
        record["training"]["peak_memory"] = peak
    if arm.schedule is not None:
        record["training"]["exchanged"] = training.exchanged
    every = -(-len(training.reports) // CURVE_POINTS) or 1
    kept = training.reports[::-1][::every][::-1]  # the last report is always kept
    record["curves"] = {key: [getattr(report, key) for report in kept] for key in _CURVES}


def _save(job: Job, folder: Path, sae: SAE, record: Record) -> None:
    """Write the SAE's files, and put into the record what they store."""
    about = {"spec": job.spec.as_json(), "labels": job.labels}
    written, layout = io.save(sae, folder, about), job.spec.arm.layout(sae.dictionary.d_in)
    if layout.file_bytes:  # another library's file counts, not our copy of it
        record["storage"] = planned_counts(layout)._asdict() | {"artifact_bytes": layout.file_bytes}
    else:
        record["storage"] = count_storage(sae)._asdict() | {"artifact_bytes": written}
    record[WEIGHTS] = file_hash(folder / io.WEIGHTS_FILE)


def _last(reports: list[Progress]) -> dict[str, float]:
    """Return the measures of the last training report, by their names in the record."""
    if not reports:
        return {}
    last = reports[-1]
    dead = {"train_dead_fraction": last.dead_fraction, "train_dead_tokens": last.dead_tokens}
    return {"train_fvu": last.fvu, **dead}


def _about(pool: Pool | FedPool, folder: Path) -> dict[str, Any]:
    """Return what a record says of the activations trained on; the log says if some tokens are not ordinary."""
    about: dict[str, Any] = {"rows": pool.tokens, "dtype": pool.dtype}
    if isinstance(pool, FedPool):  # its rows are those of the first buffer, of which the statistics are
        about |= {"stream": {"buffers": len(pool.feed.buffers), "steps_a_pass": pool.feed.steps_a_pass}}
    if pool.norms is None:
        return about
    if (outliers := pool.norms.in_words()) is not None:
        used = "in the first buffer" if isinstance(pool, FedPool) else f"trained on {pool.tokens:,}"
        log(folder, f"{outliers}; {used}")
    return about | {"norms": pool.norms._asdict()}


def _baselines(job: Job, pool: Pool | FedPool, clean: CleanPass, say: RunProgress) -> Baselines:
    say("baselines")
    key = f"{job.spec.activations.lm}:{job.model.dtype}"
    return baselines(clean, pool.mean, job.cache_dir / "baselines", key)


def _about_dtype(job: Job, base: Baselines, device: torch.device, say: RunProgress) -> dict[str, Any]:
    """Return the dtype that the LM is run in, and what that changes of its cross-entropy if it was not asked for."""
    about: dict[str, Any] = {"dtype": job.model.dtype}
    if job.model.auto_dtype and job.model.dtype != FLOAT32:
        say("the LM in float32")
        exact = float32_cross_entropy(
            lambda: load_lm(replace(job.lm, dtype=FLOAT32), job.info, device),
            held_out_of(job),
            batch_size_within(job.model.batch_size, job.model.window, job.info.vocabulary, 4),
            job.cache_dir / "baselines",
            job.spec.activations.lm,
        )
        about |= {"ce_clean_float32": exact, "ce_clean_change": base.ce_clean - exact}
    return about


def _warn_of_undefined(job: Job, base: Baselines, folder: Path) -> None:
    """Say which measures are undefined, before any time is spent on training: in the log, and once per launch."""
    for said in base.undefined():
        log(folder, said)
        say_once(
            job.runs_dir / "launches" / job.launch, f"warning: {job.model.label}, layer {job.axes['layer']}: {said}"
        )


@contextmanager
def _timed(timings: dict[str, Any], stage: str) -> Iterator[None]:
    """Note the seconds that the block takes."""
    started = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - started, 3)
