"""Carrying runs out: each once, whoever asks; a complete one is not done again, several can share one pass."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from functools import partial

import torch
from filelock import FileLock

from sweep.activations.cache import check_disk, entry_bytes
from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryJob
from sweep.machine.gpus import device_from
from sweep.machine.process import settle
from sweep.measures.baselines import Baselines
from sweep.measures.config import EvaluationError
from sweep.run.examine import examine
from sweep.run.loaded import held_out_of, train_windows_of
from sweep.run.recording import guarded_tracker, log, recording
from sweep.run.recovery import recover
from sweep.run.stages import Steps, carry_out_stages, keys_of, load_sae, read_sae
from sweep.store.progress import RunProgress
from sweep.store.records import CHECKPOINT, COMPLETE, LOCK, Record, read_record, run_folder, stop_file, write_record
from sweep.train.streams import drive


def carry_out(job: Job | RecoveryJob) -> Record:
    """Do what `job` asks for, whichever kind it is; return its record."""
    if not isinstance(job, RecoveryJob):
        return run(job)
    with lock_of(job):
        return recover(job)


def run(job: Job) -> Record:
    """Carry out `job` unless its record is complete already; return the record.

    A complete record that lacks a measurement asked for gets it, without training again. After a failure the next
    launch tries again, after an interrupt it resumes from the last checkpoint. Two processes that ask for the same run:
    one works, the other waits.
    """
    finish_needed(job)
    with lock_of(job):
        (result,) = run_together([job])
    if isinstance(result, Exception):
        raise result
    return result


def lock_of(job: Job | RecoveryJob) -> FileLock:
    """The lock of the job's run, not yet taken. Its folder is made."""
    folder = run_folder(job.runs_dir, job.spec.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCK)


def finish_needed(job: Job) -> None:
    """Finish the runs that `job` starts from or is compared with. Before the own lock: two runs may need each other."""
    folder = run_folder(job.runs_dir, job.spec.run_id)
    for needed in needed_by(job):
        folder.mkdir(parents=True, exist_ok=True)
        with closing(RunProgress(folder)) as say:
            say(f"first {needed.title}")
            run(needed)


def needed_by(job: Job) -> list[Job]:
    """The runs that must be finished before this one can start or be measured."""
    record = read_record(job.runs_dir, job.spec.run_id)
    complete = record is not None and record["status"] == COMPLETE
    start = None if complete else job.starts_from
    compared = "novelty" in job.lacking((record if complete else None) or {})
    return [needed for needed in (start, job.reference if compared else None) if needed is not None]


def unfinished_needs(job: Job) -> list[Job]:
    """Every run without a complete record that must end before `job`, in the order in which they must."""
    needed = [other for other in needed_by(job) if _status(other) != COMPLETE]
    return [each for other in needed for each in (*unfinished_needs(other), other)]


def _status(job: Job) -> str | None:
    return (read_record(job.runs_dir, job.spec.run_id) or {}).get("status")


def run_together(jobs: Sequence[Job]) -> list[Record | Exception]:
    """Carry out `jobs`, those that see the same batches reading each batch once; the caller holds their locks.

    Returns the record of each (of status "stopped", and nowhere on disk, where somebody asked it to stop), or why there
    is none.
    """
    settle()
    if jobs[0].threads is not None:
        torch.set_num_threads(jobs[0].threads)
    return drive([_one(job) for job in jobs])


def _one(job: Job) -> Steps:
    folder = run_folder(job.runs_dir, job.spec.run_id)
    record = read_record(job.runs_dir, job.spec.run_id)
    if record is not None and record["status"] == COMPLETE:
        if job.lacking(record):
            _measure_again(job, record)
        return record
    stop_file(folder, job.labels["sweep"]).unlink(missing_ok=True)
    with recording(job, folder, job.info.d_model, job.save_artifact) as under_way:
        yield from carry_out_stages(job, folder, under_way)
    if under_way.record["status"] == COMPLETE:  # what failed for its disk or memory can go on from there
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return under_way.record


def _measure_again(job: Job, record: Record) -> None:
    """Add to a complete record, in place and on disk, the measurements that `job` asks for and it lacks."""
    folder = run_folder(job.runs_dir, job.spec.run_id)
    say = RunProgress(folder)
    tracker = guarded_tracker(job, record, folder)
    try:
        device = device_from(job.device)
        sae = read_sae(device, job, record)
        if held_out_of(job).digest() != record["metrics"]["held_out_digest"]:
            raise EvaluationError(
                "the held-out windows are not those of the run's other figures: has the text changed?"
            )
        base = Baselines(**{field.name: record["metrics"][field.name] for field in fields(Baselines)})
        examine(job, sae, device, base, record, say, partial(load_sae, device))
        write_record(job.runs_dir, record)
        tracker.summary(record)
        log(folder, f"measured: {', '.join(record['inference'])}")
    except Exception:
        log(folder, traceback.format_exc())
        raise
    finally:
        say.close()
        tracker.finish(failed=False)


def preflight(job: Job | RecoveryJob) -> None:
    """Find out before any LM is loaded whether text and disk will do.

    Raises:
        ValueError: one of them will not, which one and why.
    """
    job.runs_dir.mkdir(parents=True, exist_ok=True)
    if isinstance(job, RecoveryJob):
        return
    missing = [key for key in keys_of(job, job.layers_together) if not (job.cache_dir / key.name).is_dir()]
    if missing:
        check_disk(job.cache_dir, len(missing) * entry_bytes(job.spec.activations.tokens, job.info.d_model))
        train_windows_of(job)
    held_out_of(job)
