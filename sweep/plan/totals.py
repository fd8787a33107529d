"""What a plan takes in all: work, wall time, memory, LM passes, disk."""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sweep.activations.cache import entry_bytes
from sweep.jobs.job import Job
from sweep.machine.process import machine_memory
from sweep.machine.workers import Workers
from sweep.plan.estimate import Basis, pass_seconds, planned_storage
from sweep.plan.plan import Plan
from sweep.plan.rows import Row
from sweep.store.sizes import human_size

_START = 6.0  # seconds from a worker's start to its first run: Python, torch, the LM


class Pass(NamedTuple):
    """An LM pass that is still to be done."""

    job: Job
    layers: list[int]
    bytes: int
    seconds: float


def passes_of(rows: Sequence[Row], known: Basis) -> list[Pass]:
    """One for each LM and text of the runs to be trained, with the layers that the cache lacks."""
    layers: dict[object, dict[int, Job]] = {}
    for row in rows:
        job = row.job
        if isinstance(job, Job) and row.wanted and row.wanted.lacking is None:
            key = job.spec.activations
            if not (job.cache_dir / key.name).is_dir():
                layers.setdefault((replace(key, layer=0), job.cache_dir), {}).setdefault(key.layer, job)
    found: list[Pass] = []
    for of in layers.values():
        job = next(iter(of.values()))
        n_bytes = len(of) * entry_bytes(job.spec.activations.tokens, job.info.d_model)
        found.append(Pass(job, sorted(of), n_bytes, pass_seconds(job, sorted(of), known)))
    return found


def totals(plan: Plan, rows: Sequence[Row], passes: Sequence[Pass], workers: Workers, threads: int) -> Iterator[str]:
    todo = [(row, row.estimate) for row in rows if row.estimate is not None]
    first = len(rows) - len(plan.runs)
    yield f"{_many(len(plan.runs), 'run')}: {len(plan.runs) - len(plan.todo)} complete, {len(plan.todo)} to do" + (
        f", and {first} more that they need first" if first else ""
    )
    if not todo:
        return
    training, evaluation = (sum(part) for part in zip(*(estimate[:2] for _, estimate in todo), strict=True))
    capture = sum(a_pass.seconds for a_pass in passes)
    wall = _START + capture + shared_out([estimate.seconds for _, estimate in todo], workers.count)
    team = f"{_many(workers.count, 'worker')} of {_many(threads, 'thread')}"
    yield (
        f"work: about {duration(training + evaluation + capture)} (training {duration(training)}, evaluation "
        f"{duration(evaluation)}, LM passes {duration(capture)}): {duration(wall)} with {team}"
    )
    memory = max(estimate.memory for _, estimate in todo)
    together = memory * min(workers.count, len(todo))
    enough = "" if together <= machine_memory() else "; WARNING: more than there is"
    yield (
        f"memory: up to {human_size(memory)} a worker, {human_size(together)} together; "
        f"this machine has {human_size(machine_memory())}{enough}"
    )
    gpu = max(estimate.gpu for _, estimate in todo)
    if gpu:
        yield f"memory of a GPU: up to {human_size(gpu)} a run"
    yield from _cache_lines(passes)
    saes = [row.job for row, _ in todo if isinstance(row.job, Job) and row.wanted and row.wanted.lacking is None]
    if saes:
        stored = [planned_storage(job) for job in saes]
        checkpoints = sorted((12 * storage.learned_parameters for storage in stored), reverse=True)[: workers.count]
        total = sum(storage.artifact_bytes for storage in stored)
        yield (
            f"files of the SAEs: {human_size(total)}, and up to {human_size(sum(checkpoints))} for checkpoints in between; "
            + (_room(total + sum(checkpoints), "runs_dir", saes[0].runs_dir))
        )


def _cache_lines(passes: Sequence[Pass]) -> Iterator[str]:
    if not passes:
        yield "LM passes: none to do, all activations are in the cache"
        return
    for job, layers, n_bytes, seconds in passes:
        which = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} of {job.labels['model']}"
        tokens = job.spec.activations.tokens
        yield f"LM pass: {which}, {tokens:,} tokens of {job.labels['corpus']}: {duration(seconds)}, {human_size(n_bytes)}"
    for folder in dict.fromkeys(a_pass.job.cache_dir for a_pass in passes):
        total = sum(a_pass.bytes for a_pass in passes if a_pass.job.cache_dir == folder)
        yield f"activation cache: {human_size(total)} more; {_room(total, 'cache_dir', folder)}"


def _room(needed: int, key: str, folder: Path) -> str:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    fits = "" if needed <= free else f"; WARNING: it will not fit, point {key} at another disk"
    return f"{human_size(free)} are free on the disk of {key}={folder}{fits}"


def shared_out(seconds: Iterable[float], workers: int) -> float:
    """When the last of `workers` is done, each taking the next run when it has done one."""
    ends = [0.0] * workers
    for taken in seconds:
        heapq.heapreplace(ends, ends[0] + taken)
    return max(ends)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """In words: `45 s`, `12 min`, `3.4 h`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(seconds < 10 * length)}f} {unit}"
    return f"{seconds:.{int(seconds < 10)}f} s"
