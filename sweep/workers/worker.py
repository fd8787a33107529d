"""A worker takes runs from a sweep's list until none is left: the unit that launchers start, on whichever machine.

Nobody hands runs out. A run is taken by taking its lock, which the kernel drops with its holder; so workers may come,
go and be killed, and two sweeps may want the same run.
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
from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryJob
from sweep.machine.gpus import allotted
from sweep.run.once import lock_of, needed_by, run_together
from sweep.run.recording import STOPPED, one_line
from sweep.run.recovery import recover
from sweep.store.files import write_json
from sweep.store.records import COMPLETE, FAILED, Record, read_record

_POLL = 0.5  # seconds between looks at runs that others have in hand

AnyJob = Job | RecoveryJob


def write_work(file: Path, launch: str, share: int, settings: Sequence[dict[str, Any]]) -> None:
    """The list that workers take runs from: whole configs, so that files edited meanwhile change nothing."""
    about = {"launch": launch, "folder": os.getcwd(), "share": share, "controller": os.getpid()}
    write_json(file, {**about, "runs": list(settings)})


def work(file: Path) -> dict[str, str]:
    """Carry out the runs listed in `file`, up to `share` at a time that see the same batches.

    Returns by run id why a run has no record after all, where it has none.

    A run that another process has in hand is waited for at the end: that one may be killed. A run that has failed in
    this launch is not tried again. A worker whose controller is killed ends its run and takes no other.
    """
    warnings.simplefilter("ignore", BackendWarning)  # the sweep has said it when it planned
    listed = json.loads(file.read_text())
    os.chdir(listed["folder"])  # paths in configs may be relative; a Ray worker starts wherever its cluster did
    orphaned = _orphaned(listed["controller"])
    left: list[AnyJob] = [build(_config(settings), listed["launch"]) for settings in listed["runs"]]
    why: dict[str, str] = {}
    while left and not orphaned():
        with ExitStack() as locks:
            mine = _take(left, listed["share"], why, locks)
            if mine:
                why |= _carry_out(mine)
            elif left:
                time.sleep(_POLL)
    if orphaned():
        os._exit(1)  # there is nobody to return to, and a pool's process would wait minutes for more to do
    return why


def _orphaned(controller: int) -> Callable[[], bool]:
    """Tells whether this process is a child of the controller's that has lost it: a new launch has workers of its own.

    Where something else starts the workers, or the controller is its own worker, that is not asked.
    """
    child = os.getppid() == controller
    return lambda: child and os.getppid() != controller


def _config(settings: dict[str, Any]) -> DictConfig:
    return cast(DictConfig, OmegaConf.create(settings))


def settled(job: AnyJob, record: Record | None) -> bool:
    """Whether this launch has nothing more to do about the run: it is done, or has failed in this launch."""
    if record is None:
        return False
    if record["status"] == COMPLETE:
        return not job.lacking(record)
    return record["status"] == FAILED and record["labels"]["sweep"] == job.labels["sweep"]


def _take(left: list[AnyJob], share: int, why: dict[str, str], locks: ExitStack) -> list[AnyJob]:
    """The first run of `left` that nobody has in hand, and up to share - 1 more that see the same batches, all locked.

    What there is nothing to do about any more is removed from `left`, and so is what is taken. In place of a run that
    needs another one first, that one is taken.
    """
    mine: list[AnyJob] = []
    for job in list(left):
        if len(mine) == share or (mine and not _alike(mine[0], job)):
            continue
        first = _first(job, why)
        try:
            lock = lock_of(first).acquire(timeout=0)
        except TimeoutError:
            continue
        except OSError as error:  # no folder can be made
            why[job.spec.run_id] = one_line(error)
            left.remove(job)
            continue
        if _over(first, why):
            lock.lock.release()
        else:
            locks.enter_context(lock)
            mine.append(first)
        if first is job:
            left.remove(job)
    return mine


def _first(job: AnyJob, why: dict[str, str]) -> AnyJob:
    """`job`, or the run that must end before it, and so on."""
    if isinstance(job, Job):
        for needed in needed_by(job):
            if not _over(needed, why):
                return _first(needed, why)
    return job


def _over(job: AnyJob, why: dict[str, str]) -> bool:
    return job.spec.run_id in why or settled(job, read_record(job.runs_dir, job.spec.run_id))


def _alike(one: AnyJob, other: AnyJob) -> bool:
    """Whether the two see the same batches."""
    return isinstance(one, Job) and isinstance(other, Job) and _stream(one) == _stream(other)


def _stream(job: Job) -> tuple[Any, ...]:
    return job.spec.activations, job.spec.seed, job.spec.train.batch_size, job.device, job.cache_dir


def _carry_out(jobs: Sequence[AnyJob]) -> dict[str, str]:
    """{run id: why it left no record} for those that left none."""
    with allotted(jobs[0].device) as device:
        results = _results([replace(job, device=device) for job in jobs])
    why: dict[str, str] = {}
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, Exception):
            why[job.spec.run_id] = one_line(result)
        elif result["status"] == STOPPED:
            why[job.spec.run_id] = result["error"]
    return why


def _results(jobs: Sequence[AnyJob]) -> Sequence[Record | Exception]:
    if isinstance(jobs[0], Job):
        return run_together([job for job in jobs if isinstance(job, Job)])
    try:
        return [recover(job) for job in jobs if isinstance(job, RecoveryJob)]
    except Exception as error:  # no record could be written: a full disk
        return [error]
