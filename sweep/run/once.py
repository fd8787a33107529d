"""Carry out runs: each once, however often it is asked for, and several at a time if they train on the same batches."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import fields
from functools import partial

import torch
from filelock import FileLock

from sae_core.sae import SAE
from sweep.activations.cache import check_disk, pass_bytes
from sweep.activations.norms import norms_from
from sweep.jobs.job import AnyJob, Job
from sweep.jobs.recovery import RecoveryJob
from sweep.machine.gpus import device_from
from sweep.machine.process import prepare_process
from sweep.measures.baselines import Baselines
from sweep.measures.config import EvaluationError
from sweep.run.examine import examine
from sweep.run.examine_samples import examine_samples
from sweep.run.finished import load_sae, read_sae
from sweep.run.loaded import held_out_of, positions_of, train_windows_of
from sweep.run.pools import cache_keys, ready_clean_pass
from sweep.run.recording import failsafe_tracker, log, recording
from sweep.run.recovery import recover
from sweep.run.stages import carry_out_stages
from sweep.store.progress import RunProgress
from sweep.store.records import CHECKPOINT, COMPLETE, LOCK, Record, read_record, run_folder, stop_file, write_record
from sweep.train.streams import Trainee, drive


def carry_out(job: AnyJob) -> Record:
    """Carry out a job of either kind, and return its record."""
    if not isinstance(job, RecoveryJob):
        return run(job)
    with lock_of(job):
        return recover(job)


def run(job: Job) -> Record:
    """Carry out a run unless its record is complete already, and return the record.

    A complete record that lacks a measurement asked for gets it, without training again. After a failure the next
    launch tries again, after an interrupt it resumes from the last checkpoint. Where two processes ask for the same
    run, one works and the other waits.
    """
    finish_needed(job)
    with lock_of(job):
        (result,) = run_together([job])
    if isinstance(result, Exception):
        raise result
    return result


def run_measured_together(jobs: Sequence[Job]) -> list[Record | Exception]:
    """Carry out runs that are measured on the same clean pass of the LM, so that it is made once for all of them.

    Returns:
        the record of each run, or the exception that left it without one.
    """
    for job in jobs:
        finish_needed(job)
    with ExitStack() as locks:
        for job in sorted(jobs, key=lambda job: job.spec.run_id):  # in one order: no deadlock
            locks.enter_context(lock_of(job))
        return run_together(jobs)


def same_clean_pass(one: Job, other: Job) -> bool:
    """Tell whether two runs are measured on the same clean pass of the LM."""
    return _clean_pass_key(one) == _clean_pass_key(other)


def _clean_pass_key(job: Job) -> tuple[object, ...]:
    text = job.corpus, job.windows, job.spec.eval.windows, job.spec.activations.outlier_norm
    return job.model, job.info, job.axes["layer"], *text, job.device, job.cache_dir


def lock_of(job: AnyJob) -> FileLock:
    """Return the lock of the job's run, not yet taken, and make the run's folder."""
    folder = run_folder(job.runs_dir, job.spec.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCK)


def finish_needed(job: Job) -> None:
    """Finish the runs that a job starts from or is compared with.

    This comes before the job's own lock is taken, as nobody may hold two locks: dense_tied of seed 0 and of seed 1 are
    each other's reference for novelty, and would wait for each other for ever.
    """
    folder = run_folder(job.runs_dir, job.spec.run_id)
    for needed in needed_by(job):
        folder.mkdir(parents=True, exist_ok=True)
        with closing(RunProgress(folder)) as say:
            say(f"first {needed.title}")
            run(needed)


def needed_by(job: Job) -> list[Job]:
    """Return the runs that must be finished before this one can start or be measured."""
    record = read_record(job.runs_dir, job.spec.run_id)
    complete = record is not None and record["status"] == COMPLETE
    start = None if complete else job.starts_from
    compared = "novelty" in job.lacking((record if complete else None) or {})
    return [needed for needed in (start, job.reference if compared else None) if needed is not None]


def unfinished_needs(job: Job) -> list[Job]:
    """Return every run without a complete record that must end before `job`, in the order in which they must."""
    needed = [other for other in needed_by(job) if _status(other) != COMPLETE]
    return [each for other in needed for each in (*unfinished_needs(other), other)]


def _status(job: Job) -> str | None:
    return (read_record(job.runs_dir, job.spec.run_id) or {}).get("status")


def run_together(jobs: Sequence[Job]) -> list[Record | Exception]:
    """Carry out several runs whose locks the caller holds; runs that train on the same batches read each batch once.

    Returns:
        the record of each run, or the exception that left it without one.
    """
    prepare_process()
    if jobs[0].threads is not None:
        torch.set_num_threads(jobs[0].threads)
    return drive([_carry_out_one(job) for job in jobs])


def _carry_out_one(job: Job) -> Trainee[Record]:
    folder = run_folder(job.runs_dir, job.spec.run_id)
    record = read_record(job.runs_dir, job.spec.run_id)
    if record is not None and record["status"] == COMPLETE:
        if job.lacking(record):
            yield from _measure_lacking(job, record)
        return record
    stop_file(folder, job.launch).unlink(missing_ok=True)  # a request to stop that came before this start is over
    with recording(job, folder, job.info.d_model, job.save_artifact) as under_way:
        yield from carry_out_stages(job, folder, under_way)
    # Failed and dropped runs keep their checkpoint: after a full disk the next launch resumes from it.
    if under_way.record["status"] == COMPLETE:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return under_way.record


def _measure_lacking(job: Job, record: Record) -> Trainee[None]:
    """Add to a complete record, in place and on disk, the measurements that `job` asks for and the record lacks."""
    folder = run_folder(job.runs_dir, job.spec.run_id)
    say = RunProgress(folder)
    tracker = failsafe_tracker(job, record, folder)
    try:
        device = device_from(job.device)
        sae = read_sae(device, job, record)
        if held_out_of(job).digest() != record["metrics"]["held_out_digest"]:
            raise EvaluationError(
                "the held-out text has changed since this run was measured: restore it, or train the run anew"
            )
        yield from _examine_again(job, sae, device, record, say)
        write_record(job.runs_dir, record)
        tracker.summary(record)
        log(folder, f"measured: {', '.join(record['inference'])}")
    except Exception:
        log(folder, traceback.format_exc())
        raise
    finally:
        say.close()
        tracker.finish(failed=False)


def _examine_again(job: Job, sae: SAE, device: torch.device, record: Record, say: RunProgress) -> Trainee[None]:
    """Make the measurements that the record lacks."""
    if job.spec.synthetic is not None:
        yield from examine_samples(job, sae, record, say)
        return
    metrics = record["metrics"]
    base = Baselines(**{field.name: metrics[field.name] for field in fields(Baselines) if field.name in metrics})
    positions = positions_of(job, norms_from(record.get("activations", {}).get("norms")))
    clean = ready_clean_pass(job, device, positions, say)
    yield from examine(job, sae, clean, base, record, say, partial(load_sae, device))


def preflight(job: AnyJob) -> None:
    """Check before any LM is loaded that there is enough text, and enough disk for the activations.

    Raises:
        ValueError: there is too little of either; the message says of which, and what to do.
    """
    job.runs_dir.mkdir(parents=True, exist_ok=True)
    if isinstance(job, RecoveryJob):
        return
    if job.spec.activations.stream is not None:
        train_windows_of(job)
        held_out_of(job)
        return
    absent = [key for key in cache_keys(job, job.layers_together) if not (job.cache_dir / key.name).is_dir()]
    if absent:
        check_disk(job.cache_dir, len(absent) * pass_bytes(job.spec.activations.tokens, job.info.d_model))
        train_windows_of(job)
    held_out_of(job)
