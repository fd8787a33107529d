"""The work of one worker: take runs from the sweep's list and carry them out until none is left.

No process hands runs out. A worker takes a run by taking its lock, which the operating system releases when the worker
ends. So workers may come, go and be killed, and two sweeps may want the same run.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from sae_core.kernels.dispatch import BackendWarning
from sweep.jobs.build import build
from sweep.jobs.job import AnyJob, Job
from sweep.jobs.overrides import literal
from sweep.jobs.recovery import RecoveryJob
from sweep.machine.gpus import hold_device
from sweep.run.once import lock_of, needed_by, run_together
from sweep.run.recording import one_line
from sweep.run.recovery import recover
from sweep.store.files import write_json
from sweep.store.records import COMPLETE, DROPPED, FAILED, Record, read_record, run_folder, stop_asked

_POLL = 0.5  # seconds between looks at runs that others have in hand
NOT_BEGUN = "launch.fail_fast=true, and a run had failed"


def write_work(
    file: Path, launch: str, share: int, settings: Sequence[dict[str, Any]], fail_fast: bool = False
) -> None:
    """Write the list that workers take runs from.

    Args:
        launch: the launch's name.
        share: how many runs a worker may train at a time on the same batches.
        fail_fast: whether no run begins after one has failed; those under way are finished.
        settings: each run's whole config, so that files edited meanwhile change nothing.
    """
    about = {"launch": launch, "folder": os.getcwd(), "share": share, "fail_fast": fail_fast, "controller": os.getpid()}
    write_json(file, {**about, "runs": list(settings)})


def work(file: Path) -> dict[str, str]:
    """Carry out the runs listed in `file`; return {run id: reason} for the runs that left no record.

    Runs that use the same batches are trained together, up to the list's `share` at a time. A run that another process
    has in hand is waited for at the end, because that process may be killed. A run that has failed in this launch is
    not tried again. A worker whose controller is killed finishes the run that it is on, then exits. Where the list says
    so, no run begins after one has failed, in this worker or in another.
    """
    warnings.simplefilter("ignore", BackendWarning)  # the controller has given this warning already
    listed = json.loads(file.read_text())
    os.chdir(listed["folder"])  # paths in configs may be relative; a Ray worker starts wherever its cluster did
    orphaned = _orphaned(listed["controller"])
    left: list[AnyJob] = [build(_config(settings), listed["launch"]) for settings in listed["runs"]]
    why: dict[str, str] = {}
    stopped = file.with_suffix(".stopped")  # is there once a run has failed, where that ends the launch
    while left and not orphaned():
        if stopped.exists():
            return why | {job.spec.run_id: NOT_BEGUN for job in left if not _nothing_to_do(job, why)}
        with ExitStack() as locks:
            mine = _take(left, listed["share"], why, locks)
            if mine:
                why |= _carry_out(mine)
                if listed["fail_fast"] and any(_has_failed(job, why) for job in mine):
                    stopped.touch()
            elif left:
                time.sleep(_POLL)
    if orphaned():
        os._exit(1)  # no process is left to return to, and joblib's process would otherwise idle for minutes
    return why


def _orphaned(controller: int) -> Callable[[], bool]:
    """Return a function that tells whether the controller, this process's parent, has ended.

    A worker without its controller need not go on: a new launch has workers of its own. Where something else starts
    the workers, or the controller is its own worker, the function always says no.
    """
    child = os.getppid() == controller
    return lambda: child and os.getppid() != controller


def _config(settings: dict[str, Any]) -> DictConfig:
    """Return resolved settings as a config that resolves to them: a `${` in a path is no interpolation any more."""
    return cast(DictConfig, OmegaConf.create(literal(settings)))


def settled(job: AnyJob, record: Record | None) -> bool:
    """Tell whether this launch has nothing more to do about the run.

    It is done, has failed in this launch, or was dropped in it and is still asked to stop.
    """
    if record is None:
        return False
    if record["status"] == COMPLETE:
        return not job.lacking(record)
    if record["status"] == DROPPED and stop_asked(run_folder(job.runs_dir, job.spec.run_id), job.launch) is None:
        return False
    return record["status"] in (DROPPED, FAILED) and record["labels"]["sweep"] == job.launch


def _take(left: list[AnyJob], share: int, why: dict[str, str], locks: ExitStack) -> list[AnyJob]:
    """Lock the first run of `left` that is free, and up to share - 1 more that train on the same batches; return them.

    In place of a run that needs another one first, that other one is taken. Runs that are taken leave `left`, and so do
    those that need nothing more done.

    Args:
        why: gets the reason of a run whose lock cannot be made.
        locks: holds the locks that are taken.
    """
    mine: list[AnyJob] = []
    for job in list(left):
        if len(mine) == share or (mine and not _same_batches(mine[0], job)):
            continue
        to_run = _next_run(job, why)
        if mine and not _same_batches(mine[0], to_run):  # a needed run may have another seed
            continue
        try:
            held = lock_of(to_run).acquire(timeout=0)
        except TimeoutError:
            continue
        except OSError as error:  # no folder can be made
            why[job.spec.run_id] = one_line(error)
            left.remove(job)
            continue
        if _nothing_to_do(to_run, why):
            held.lock.release()
        else:
            locks.enter_context(held)
            mine.append(to_run)
        if to_run is job:
            left.remove(job)
    return mine


def _next_run(job: AnyJob, why: dict[str, str]) -> AnyJob:
    """Return the run to carry out next for `job`: one that it still needs, directly or not, or `job` itself."""
    if isinstance(job, Job):
        for needed in needed_by(job):
            if not _nothing_to_do(needed, why):
                return _next_run(needed, why)
    return job


def _nothing_to_do(job: AnyJob, why: dict[str, str]) -> bool:
    """Tell whether this launch has nothing more to do about `job`, with a record or without."""
    return job.spec.run_id in why or settled(job, read_record(job.runs_dir, job.spec.run_id))


def _has_failed(job: AnyJob, why: dict[str, str]) -> bool:
    record = read_record(job.runs_dir, job.spec.run_id)
    return job.spec.run_id in why or (record is not None and record["status"] == FAILED)


def _same_batches(one: AnyJob, other: AnyJob) -> bool:
    """Tell whether two runs train on the same batches."""
    return isinstance(one, Job) and isinstance(other, Job) and _batches_of(one) == _batches_of(other)


def _batches_of(job: Job) -> tuple[Any, ...]:
    key, common = job.spec.activations, (job.spec.train.batch_size, job.device, job.cache_dir)
    if key.stream is not None:  # one feed serves all layers, and trainings of all seeds
        return replace(key, layer=0), *common
    return key, job.spec.seeds.order, *common


def _carry_out(jobs: Sequence[AnyJob]) -> dict[str, str]:
    """Carry out runs whose locks this worker holds; return {run id: reason} for the runs that left no record."""
    with hold_device(jobs[0].device) as device:
        results = _results([replace(job, device=device) for job in jobs])
    why: dict[str, str] = {}
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, Exception):
            why[job.spec.run_id] = one_line(result)
    return why


def _results(jobs: Sequence[AnyJob]) -> Sequence[Record | Exception]:
    if isinstance(jobs[0], Job):
        return run_together([job for job in jobs if isinstance(job, Job)])
    try:
        return [recover(job) for job in jobs if isinstance(job, RecoveryJob)]
    except Exception as error:  # no record could be written: a full disk
        return [error]
