"""One run: activations -> build -> train -> evaluate -> record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from sae_core import io, theory
from sae_core.inference import ENCODER
from sae_core.kernels.dispatch import backend_name
from sae_core.sae import SAE
from sae_core.storage import count_storage
from sweep.activations import CacheKey, Pool, check_disk, ensure_pools, entry_bytes, open_pool
from sweep.build import Job
from sweep.corpus import Corpus
from sweep.lm import LM, ModelConfig, ModelInfo, device_from, load_lm, load_tokenizer
from sweep.measures import Baselines, CleanPass, EvaluationError, active_latents, baselines, measure
from sweep.process import keep_freed_memory, long_lived_objects_kept
from sweep.progress import RunProgress
from sweep.recording import log, new_record, one_line, start_tracker
from sweep.recovery import RecoveryJob, recover
from sweep.store import COMPLETE, FAILED, Record, read_record, run_folder, unmeasured, write_record
from sweep.tracking import Guarded
from sweep.train import CheckpointError, Progress, train
from sweep.windows import WindowConfig, Windows, held_out_windows, train_windows

CHECKPOINT = "checkpoint.pt"


def carry_out(job: Job | RecoveryJob) -> Record:
    """Do what `job` asks for, whichever kind it is; return its record."""
    return recover(job) if isinstance(job, RecoveryJob) else run(job)


def run(job: Job) -> Record:
    """Carry out `job` unless its record is complete already; return the record.

    A complete record that lacks a measurement asked for gets it, without training again. A failure becomes a record of
    status "failed", with the error; only an interrupt leaves without one, and the next launch resumes from the last
    checkpoint. Two processes that ask for the same run: one works, the other waits.
    """
    folder = run_folder(job.runs_dir, job.spec.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        keep_freed_memory()
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        record = read_record(job.runs_dir, job.spec.run_id)
        if record is None or record["status"] != COMPLETE:
            return _from_the_start(job, folder)
        if unmeasured(record, job.inference):
            _measure_again(job, folder, record)
        return record


def _from_the_start(job: Job, folder: Path) -> Record:
    """Train, measure and record, whatever becomes of it."""
    say, record, started = RunProgress(folder), new_record(job, job.info.d_model), time.perf_counter()
    tracker = Guarded(lambda: start_tracker(job, folder))
    try:
        _carry_out(job, folder, record, tracker, say)
        record["status"] = COMPLETE
    except Exception as error:
        record["status"] = FAILED
        record["error"] = one_line(error)
        log(folder, traceback.format_exc())
    except BaseException:  # Ctrl-C: no record, the checkpoint stays
        tracker.finish(failed=True)
        raise
    finally:
        say.close()
    record["timings"]["total"] = round(time.perf_counter() - started, 3)
    record["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    tracker.summary(record)
    if job.save_artifact and record["status"] == COMPLETE:
        tracker.artifact(folder, f"sae-{job.spec.run_id}")
    tracker.finish(failed=record["status"] != COMPLETE)
    write_record(job.runs_dir, record)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    log(folder, f"{record['status']} after {record['timings']['total']:.1f} s")
    return record


def _measure_again(job: Job, folder: Path, record: Record) -> None:
    """Add to a complete record, in place and on disk, the measurements that `job` asks for and it lacks."""
    say = RunProgress(folder)
    tracker = Guarded(lambda: start_tracker(job, folder))
    try:
        device = device_from(job.device)
        sae = io.load(folder, device, job.backend)
        held_out = _held_out(job.corpus, job.model, job.info, job.windows, job.spec.eval.windows)
        if held_out.digest() != record["metrics"]["held_out_digest"]:
            raise EvaluationError(
                "the held-out windows are not those of the run's other figures: has the text changed?"
            )
        base = Baselines(**{field.name: record["metrics"][field.name] for field in fields(Baselines)})
        _measure(job, sae, device, held_out, base, record, say)
        if "theory" not in record:
            record["theory"] = _theory(job, sae, device, held_out)
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
        _train_windows(job.corpus, job.model, job.info, job.windows, job.spec.activations.tokens)
    _held_out(job.corpus, job.model, job.info, job.windows, job.spec.eval.windows)


def _carry_out(job: Job, folder: Path, record: Record, tracker: Guarded, say: RunProgress) -> None:
    timings = record["timings"]
    device = device_from(job.device)
    with _timed(timings, "activations"):
        pool = _pool(job, device, say)
    sae = _build_sae(job, pool, device)
    record["versions"]["backend"] = backend_name(job.backend, device)
    record["storage"] = count_storage(sae)._asdict()
    with _timed(timings, "training"), long_lived_objects_kept():
        sae, last = _train(job, folder, sae, pool, device, tracker, say)
    about = {"spec": job.spec.as_json(), "labels": job.labels}
    record["storage"]["artifact_bytes"] = io.save(sae, folder, about)
    with _timed(timings, "evaluation"):
        held_out = _held_out(job.corpus, job.model, job.info, job.windows, job.spec.eval.windows)
        base = _baselines(job, held_out, pool, device, say)
        _measure(job, sae, device, held_out, base, record, say)
    with _timed(timings, "theory"):
        record["theory"] = _theory(job, sae, device, held_out)
    own = record["inference"][ENCODER]
    if "error" in own:
        raise EvaluationError(own["error"])
    record["metrics"] = dict(own["metrics"])
    record["metrics"]["train_fvu"] = last.fvu
    record["metrics"]["train_dead_fraction"] = last.dead_fraction
    record["metrics"]["train_dead_tokens"] = last.dead_tokens
    record["metrics"]["held_out_digest"] = held_out.digest()
    timings["train_tokens_per_second"] = round(job.spec.train.steps * job.spec.train.batch_size / timings["training"])


def _theory(job: Job, sae: SAE, device: torch.device, held_out: Windows) -> dict[str, Any]:
    clean = _clean_pass(job.model, job.info, device, job.axes["layer"], held_out)
    return theory.measure(sae.dictionary, active_latents(sae, clean))


def _measure(
    job: Job, sae: SAE, device: torch.device, held_out: Windows, base: Baselines, record: Record, say: RunProgress
) -> None:
    """Put into the record each way of reading codes that it lacks; one that fails is noted, and the others go on."""
    clean = _clean_pass(job.model, job.info, device, job.axes["layer"], held_out)
    measured = record.setdefault("inference", {})
    for name in job.inference:
        if "metrics" in measured.get(name, {}) or (name == ENCODER and record["metrics"]):
            continue
        try:
            measured[name] = measure(
                sae, name, clean, base, lambda done, total, name=name: say(f"evaluation: {name}", done, total)
            )
        except (EvaluationError, IndexError, RuntimeError) as error:
            measured[name] = {"error": one_line(error)}
            log(job.runs_dir / job.spec.run_id, traceback.format_exc())


def _pool(job: Job, device: torch.device, say: RunProgress) -> Pool:
    key = job.spec.activations
    say("activations")

    def load() -> tuple[LM, Windows]:
        windows = _train_windows(job.corpus, job.model, job.info, job.windows, key.tokens)
        return _lm(job.model, job.info, device), windows

    ensure_pools(
        job.cache_dir,
        _keys(job, job.layers_together),
        load,
        job.model.batch_size,
        on_progress=lambda done, total: say("LM pass", done, total),
        on_wait=lambda: say("waiting for another run's LM pass"),
    )
    pool = open_pool(job.cache_dir, key)
    assert pool is not None, "ensure_pools has made it"
    return pool


def _keys(job: Job, layers: Sequence[int]) -> list[CacheKey]:
    return [replace(job.spec.activations, layer=layer) for layer in layers]


def _build_sae(job: Job, pool: Pool, device: torch.device) -> SAE:
    scale = pool.d_in**0.5 / pool.mean_norm if job.spec.train.input_scale == "unit" else 1.0
    sae = job.spec.arm.build(pool.d_in, job.spec.seed, scale).to(device)
    sae.backend = job.backend
    return sae


def _train(job: Job, folder: Path, sae: SAE, pool: Pool, device: torch.device, tracker: Guarded, say: RunProgress):
    """(trained SAE, its last progress report)."""
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        tracker.curve(progress)
        say("training", progress.step, job.spec.train.steps, f"loss {progress.loss:.3g}  FVU {progress.fvu:.3f}")

    def fit(sae: SAE) -> None:
        train(
            sae, pool.rows, pool.tokens, pool.total_variance, job.spec.train, job.spec.seed, folder / CHECKPOINT, report
        )

    log(folder, f"training {job.title}")
    try:
        fit(sae)
    except CheckpointError as error:
        log(folder, f"{error}; starting over")
        (folder / CHECKPOINT).unlink(missing_ok=True)
        sae = _build_sae(job, pool, device)
        fit(sae)
    return sae, reports[-1]


def _baselines(job: Job, held_out: Windows, pool: Pool, device: torch.device, say: RunProgress) -> Baselines:
    say("baselines")
    return baselines(
        lambda: _lm(job.model, job.info, device),
        job.axes["layer"],
        held_out,
        pool.mean,
        job.model.batch_size,
        job.cache_dir / "baselines",
        key=f"{job.spec.activations.lm}:{job.model.dtype}",
    )


# What the runs of one process share. Pure functions of their arguments, so remembering them changes nothing.
@lru_cache(maxsize=1)
def _lm(model: ModelConfig, info: ModelInfo, device: torch.device) -> LM:
    return load_lm(model, info, device)


@lru_cache(maxsize=1)
def _tokenizer(model: ModelConfig, info: ModelInfo):
    return load_tokenizer(model, info)


@lru_cache(maxsize=1)
def _train_windows(
    corpus: Corpus, model: ModelConfig, info: ModelInfo, windows: WindowConfig, n_tokens: int
) -> Windows:
    return train_windows(corpus, _tokenizer(model, info), windows, n_tokens)


@lru_cache(maxsize=1)
def _held_out(corpus: Corpus, model: ModelConfig, info: ModelInfo, windows: WindowConfig, n_windows: int) -> Windows:
    return held_out_windows(corpus, _tokenizer(model, info), windows, n_windows)


@lru_cache(maxsize=1)
def _clean_pass(model: ModelConfig, info: ModelInfo, device: torch.device, layer: int, held_out: Windows) -> CleanPass:
    return CleanPass(_lm(model, info, device), layer, held_out, model.batch_size)


@contextmanager
def _timed(timings: dict[str, float], stage: str):
    started = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - started, 3)
