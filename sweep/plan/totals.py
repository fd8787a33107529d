"""Add up what all runs of a plan take together: work, wall time, memory, LM passes and disk."""

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
from sweep.plan.estimate import Basis, Estimate, captured_tokens, pass_seconds
from sweep.plan.footprint import kept_logits_bytes, planned_storage, size_of, streamed_memory
from sweep.plan.plan import Plan
from sweep.plan.rows import Row
from sweep.store.human_size import human_size

_START = 6.0  # seconds from a worker's start to its first run: Python, torch, the LM


class LMPass(NamedTuple):
    """An LM pass that is still to be done."""

    job: Job
    layers: list[int]
    bytes: int  # on disk, where the pass is not streamed
    seconds: float
    saes: int  # how many are trained on it


def passes_of(rows: Sequence[Row], basis: Basis) -> list[LMPass]:
    """Return one LM pass for each LM and text of the runs to be trained, with the layers that the cache lacks."""
    lacking: dict[object, dict[int, Job]] = {}
    saes: dict[object, int] = {}
    for row in rows:
        job = row.job
        if isinstance(job, Job) and row.to_be_trained:
            key = job.spec.activations
            if _is_streamed(job) or not (job.cache_dir / key.name).is_dir():
                text = replace(key, layer=0), job.cache_dir
                lacking.setdefault(text, {}).setdefault(key.layer, job)
                saes[text] = saes.get(text, 0) + 1
    found: list[LMPass] = []
    for text, layers in lacking.items():
        job = max(layers.values(), key=lambda job: job.spec.train.steps)
        n_bytes = len(layers) * entry_bytes(job.spec.activations.tokens, job.info.d_model)
        found.append(LMPass(job, sorted(layers), n_bytes, pass_seconds(job, sorted(layers), basis), saes[text]))
    return found


def totals(plan: Plan, rows: Sequence[Row], passes: Sequence[LMPass], workers: Workers, threads: int) -> Iterator[str]:
    """Yield the lines that end a printed plan.

    Args:
        threads: CPU threads of each worker.
    """
    needed_first = len(rows) - len(plan.runs)
    also = f", and {needed_first} more that they need first" if needed_first else ""
    complete = len(plan.runs) - len(plan.todo)
    yield f"{_counted(len(plan.runs), 'run')}: {complete} complete, {len(plan.todo)} to do{also}"
    estimates = [row.estimate for row in rows if row.estimate is not None]
    if not estimates:
        return
    yield _work_line(estimates, passes, workers, threads)
    yield from _memory_lines(rows, workers)
    measured = [row.job for row in rows if isinstance(row.job, Job) and row.estimate is not None]
    if measured:  # synthetic experiments need no LM
        yield from _cache_lines(passes)
        yield from _logit_lines(measured)
    saes = [row.job for row in rows if isinstance(row.job, Job) and row.to_be_trained]
    if saes:
        yield _files_line(saes, workers)


def _work_line(estimates: Sequence[Estimate], passes: Sequence[LMPass], workers: Workers, threads: int) -> str:
    training = sum(estimate.training for estimate in estimates)
    evaluation = sum(estimate.evaluation for estimate in estimates)
    capture = sum(lm_pass.seconds for lm_pass in passes)
    wall = _START + capture + shared_out([estimate.seconds for estimate in estimates], workers.count)
    parts = f"training {duration(training)}, evaluation {duration(evaluation)}, LM passes {duration(capture)}"
    team = f"{_counted(workers.count, 'worker')} of {_counted(threads, 'thread')}"
    return f"work: about {duration(training + evaluation + capture)} ({parts}); done in {duration(wall)} with {team}"


def _logit_lines(jobs: Sequence[Job]) -> Iterator[str]:
    """Say how much disk the untouched LM's logits take."""
    kept = {(job.spec.activations.lm, job.cache_dir): kept_logits_bytes(job, size_of(job)) for job in jobs}
    if total := sum(kept.values()):
        yield f"held-out logits of the untouched LM, kept in cache_dir once they are made: {human_size(total)}"


def _memory_lines(rows: Sequence[Row], workers: Workers) -> Iterator[str]:
    estimates = [row.estimate for row in rows if row.estimate is not None]
    most, there = max(estimate.memory for estimate in estimates), machine_memory()
    if streamed := [
        row.job for row in rows if isinstance(row.job, Job) and row.to_be_trained and _is_streamed(row.job)
    ]:
        most = max(most, streamed_memory(streamed))
    together = most * min(workers.count, len(estimates))
    warning = "" if together <= there else "; WARNING: the workers need more than there is"
    yield (
        f"memory: up to {human_size(most)} a worker, {human_size(together)} together; "
        f"this machine has {human_size(there)}{warning}"
    )
    gpu = max(estimate.gpu for estimate in estimates)
    if gpu:
        yield f"memory of a GPU: up to {human_size(gpu)} a run"


def _cache_lines(passes: Sequence[LMPass]) -> Iterator[str]:
    if not passes:
        yield "LM passes: none to do, all activations are in the cache"
        return
    for job, layers, n_bytes, seconds, saes in passes:
        if job.spec.synthetic is not None:
            drawn = f"{job.spec.activations.tokens:,} samples of model={job.labels['model']}"
            yield f"to be drawn: {drawn}: {duration(seconds)}, {human_size(n_bytes)}"
            continue
        which = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} of {job.labels['model']}"
        text = f"{job.spec.activations.tokens:,} tokens of {job.labels['corpus']}"
        if not _is_streamed(job):
            yield f"LM pass: {which}, {text}: {duration(seconds)}, {human_size(n_bytes)}"
        else:
            yield from _streamed_lines(which, text, job, n_bytes, seconds, saes)
    stored = [lm_pass for lm_pass in passes if not _is_streamed(lm_pass.job)]
    for folder in dict.fromkeys(lm_pass.job.cache_dir for lm_pass in stored):
        total = sum(lm_pass.bytes for lm_pass in stored if lm_pass.job.cache_dir == folder)
        made_of = f"{human_size(2 * total)} while they are made"  # their parts, and they themselves
        yield f"activation cache: {human_size(total)} more, {made_of}; {_free_space(2 * total, 'cache_dir', folder)}"


def _is_streamed(job: Job) -> bool:
    return job.spec.activations.stream is not None


def _streamed_lines(which: str, text: str, job: Job, n_bytes: int, seconds: float, saes: int) -> Iterator[str]:
    """Say what streaming costs and what it saves."""
    key, used = job.spec.activations, captured_tokens(job)
    passes = f"{used / key.tokens:.3g} passes over {text}" if used > key.tokens else f"{used:,} of {text}"
    buffer = human_size(entry_bytes(key.stream or 0, job.info.d_model) * len(job.layers_together))
    yield (
        f"LM stream: {which}, {passes}: {duration(seconds)} for {_counted(saes, 'SAE')} that one worker trains "
        f"together, through a buffer of {key.stream:,} tokens ({buffer} of memory)"
    )
    yield f"no activations on disk; cache.mode=pool would take {human_size(n_bytes)} there, and read each token once"


def _files_line(saes: Sequence[Job], workers: Workers) -> str:
    stored = [planned_storage(job) for job in saes]
    files = sum(storage.artifact_bytes for storage in stored)
    # A checkpoint holds each parameter and Adam's two moments of it, 4 bytes each.
    largest = sorted((12 * storage.learned_parameters for storage in stored), reverse=True)
    checkpoints = sum(largest[: workers.count])
    return (
        f"files of the SAEs: {human_size(files)}, and up to {human_size(checkpoints)} of checkpoints while they train; "
        + _free_space(files + checkpoints, "runs_dir", saes[0].runs_dir)
    )


def _free_space(needed: int, key: str, folder: Path) -> str:
    """Say how much room there is at `folder`, and warn if it is less than needed."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    warning = "" if needed <= free else f"; WARNING: it will not fit, point {key} at another disk"
    return f"{human_size(free)} are free on the disk of {key}={folder}{warning}"


def shared_out(seconds: Iterable[float], workers: int) -> float:
    """Return the seconds until the last of `workers` is done, if each takes the next run when it has finished one."""
    ends = [0.0] * workers
    for taken in seconds:
        heapq.heapreplace(ends, ends[0] + taken)
    return max(ends)


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def duration(seconds: float) -> str:
    """Return a time in words: `45 s`, `12 min`, `3.4 h`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(seconds < 10 * length)}f} {unit}"
    return f"{seconds:.{int(seconds < 10)}f} s"
