"""`plan=true`: every run that a sweep would do, what it stores and takes, and the totals; nothing is trained."""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from sweep.activations import entry_bytes
from sweep.build import Job
from sweep.estimate import PROBING, Basis, Estimate, Wanted, basis, estimated, pass_seconds, planned_storage
from sweep.owners import running
from sweep.plan import Plan, Planned
from sweep.recovery import RecoveryJob
from sweep.report import _by_reason
from sweep.store import CHECKPOINT, COMPLETE, FAILED, Record, read_record, run_folder
from sweep.timing import machine_memory

if TYPE_CHECKING:
    from sweep.workers import Workers

TO_DO, FAILED_BEFORE = "to do", "failed last time"
_START = 6.0  # seconds from a worker's start to its first run: Python, torch, the LM
_COLUMNS = ("run", "arm", "d", "k", "n", "layer", "seed", "values", "parameters", "compr.", "stored", "time", "from",
            "memory", "state")  # fmt: skip
_WIDE = 165  # columns that the table needs


class Row(NamedTuple):
    """A run of the plan, or one that such a run needs first."""

    run_id: str
    job: Job | RecoveryJob
    state: str
    why: str  # it failed
    wanted: Wanted | None  # None where nothing is left to do
    estimate: Estimate | None


class Pass(NamedTuple):
    """An LM pass that is still to be done."""

    job: Job
    layers: list[int]
    bytes: int
    seconds: float


def print_plan(plan: Plan, workers: Workers, console: Console | None = None, budget: float = PROBING) -> None:
    """Print one row per run, the cells left out, and the totals.

    Args:
        workers: those that the launch would have.
        budget: seconds for timing training steps where no finished run tells.
    """
    threads = workers.threads or _torch_threads()
    rows, known = _rows(plan, threads, budget)
    passes = _passes(rows, known)
    console = console or Console(highlight=False)
    if not console.is_terminal:  # a file, or a pipe: as wide as it takes
        console.width = max(console.width, _WIDE)
    saes = [row for row in rows if isinstance(row.job, Job)]
    if saes:
        console.print(_table(saes) if console.width >= _WIDE else _narrow(saes))
    synthetic = [row for row in rows if isinstance(row.job, RecoveryJob)]
    if synthetic:
        console.print(_recovery_table(synthetic))
    for row in rows:
        if row.why:
            say(console, f"{FAILED_BEFORE}: {row.run_id} {row.job.title}: {row.why}")
    for reason, cells in _by_reason(plan.left_out).items():
        which = " ".join(cells[0].overrides)
        say(console, f"left out: {which if len(cells) == 1 else f'{len(cells)} cells, the first {which}'}: {reason}")
    for line in _totals(plan, rows, passes, workers, threads):
        say(console, line)


def say(console: Console, line: str) -> None:
    """One line, however long."""
    console.print(line, markup=False, soft_wrap=True)


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _rows(plan: Plan, threads: int, budget: float) -> tuple[list[Row], Basis]:
    """The plan's runs, each after those that it needs and that are neither in the plan nor done."""
    found: dict[str, Row] = {}
    asked = {run.job.spec.run_id: run for run in plan.runs}
    for run_id, run in asked.items():
        record = read_record(run.job.runs_dir, run_id)
        lacking = run.job.lacking(record) if run.trained and record else None
        wanted = None if run.done else Wanted(run.job, lacking)
        for needed in _needed(wanted):
            its_id = needed.spec.run_id
            if its_id not in asked and its_id not in found:
                found[its_id] = Row(its_id, needed, f"{TO_DO} first, for {run_id}", "", Wanted(needed, None), None)
        state = _state(run, run_folder(run.job.runs_dir, run_id), record, lacking)
        found[run_id] = Row(run_id, run.job, state, _why(record), wanted, None)
    known = basis([row.wanted for row in found.values() if row.wanted], threads, budget)
    return [row._replace(estimate=row.wanted and estimated(row.wanted, known)) for row in found.values()], known


def _needed(wanted: Wanted | None) -> Iterator[Job]:
    """Runs to be done before this one: what it starts from, what it is compared with; and before them, theirs."""
    if wanted is None or isinstance(wanted.job, RecoveryJob):
        return
    job, lacking = wanted.job, wanted.lacking
    source = job.source if lacking is None else None
    compared = "novelty" in (job.lacking({}) if lacking is None else lacking)
    for needed in (source, job.reference if compared else None):
        if needed is None:
            continue
        record = read_record(needed.runs_dir, needed.spec.run_id)
        if record is None or record["status"] != COMPLETE:
            yield from _needed(Wanted(needed, None))
            yield needed


def _state(run: Planned, folder: Path, record: Record | None, lacking: list[str] | None) -> str:
    if run.done:
        return COMPLETE
    owner = running(folder)
    if owner is not None:
        who = ", ".join(f"{word} {value}" for word, value in (("on", owner.host), ("pid", owner.pid)) if value)
        return f"running now ({who})" if who else "running now"
    if lacking is not None:
        return f"{COMPLETE}, lacks {', '.join(lacking)}"
    if (folder / CHECKPOINT).exists():
        return "has a checkpoint"
    return FAILED_BEFORE if record else TO_DO


def _why(record: Record | None) -> str:
    return record.get("error", "unknown error") if record and record["status"] == FAILED else ""


def _passes(rows: Sequence[Row], known: Basis) -> list[Pass]:
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


def _totals(plan: Plan, rows: Sequence[Row], passes: Sequence[Pass], workers: Workers, threads: int) -> Iterator[str]:
    todo = [(row, row.estimate) for row in rows if row.estimate is not None]
    first = len(rows) - len(plan.runs)
    yield f"{_many(len(plan.runs), 'run')}: {len(plan.runs) - len(plan.todo)} complete, {len(plan.todo)} to do" + (
        f", and {first} more that they need first" if first else ""
    )
    if not todo:
        return
    training, evaluation = (sum(part) for part in zip(*(estimate[:2] for _, estimate in todo), strict=True))
    capture = sum(a_pass.seconds for a_pass in passes)
    wall = _START + capture + _shared_out([estimate.seconds for _, estimate in todo], workers.count)
    team = f"{_many(workers.count, 'worker')} of {_many(threads, 'thread')}"
    yield (
        f"work: about {duration(training + evaluation + capture)} (training {duration(training)}, evaluation "
        f"{duration(evaluation)}, LM passes {duration(capture)}): {duration(wall)} with {team}"
    )
    memory = max(estimate.memory for _, estimate in todo)
    together = memory * min(workers.count, len(todo))
    enough = "" if together <= machine_memory() else "; WARNING: more than there is"
    yield (
        f"memory: up to {size(memory)} a worker, {size(together)} together; "
        f"this machine has {size(machine_memory())}{enough}"
    )
    gpu = max(estimate.gpu for _, estimate in todo)
    if gpu:
        yield f"memory of a GPU: up to {size(gpu)} a run"
    yield from _cache_lines(passes)
    saes = [row.job for row, _ in todo if isinstance(row.job, Job) and row.wanted and row.wanted.lacking is None]
    if saes:
        stored = [planned_storage(job) for job in saes]
        checkpoints = sorted((12 * storage.learned_parameters for storage in stored), reverse=True)[: workers.count]
        total = sum(storage.artifact_bytes for storage in stored)
        yield f"files of the SAEs: {size(total)}, and up to {size(sum(checkpoints))} for checkpoints in between; " + (
            _room(total + sum(checkpoints), "runs_dir", saes[0].runs_dir)
        )


def _cache_lines(passes: Sequence[Pass]) -> Iterator[str]:
    if not passes:
        yield "LM passes: none to do, all activations are in the cache"
        return
    for job, layers, n_bytes, seconds in passes:
        which = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))} of {job.labels['model']}"
        tokens = job.spec.activations.tokens
        yield f"LM pass: {which}, {tokens:,} tokens of {job.labels['corpus']}: {duration(seconds)}, {size(n_bytes)}"
    for folder in dict.fromkeys(a_pass.job.cache_dir for a_pass in passes):
        total = sum(a_pass.bytes for a_pass in passes if a_pass.job.cache_dir == folder)
        yield f"activation cache: {size(total)} more; {_room(total, 'cache_dir', folder)}"


def _room(needed: int, key: str, folder: Path) -> str:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    fits = "" if needed <= free else f"; WARNING: it will not fit, point {key} at another disk"
    return f"{size(free)} are free on the disk of {key}={folder}{fits}"


def _shared_out(seconds: Iterable[float], workers: int) -> float:
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


def size(n_bytes: float) -> str:
    """In words: `122 KiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1000:
            return f"{n_bytes:.{int(n_bytes < 10 and unit != 'bytes')}f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


def _table(rows: Sequence[Row]) -> Table:
    gpu = any(row.estimate and row.estimate.gpu for row in rows)
    table = _new([*_COLUMNS[:-1], *(["GPU"] if gpu else []), _COLUMNS[-1]])
    for row in rows:
        table.add_row(*_cells(row, gpu))
    return table


def _cells(row: Row, gpu: bool) -> list[str]:
    job, estimate = row.job, row.estimate
    assert isinstance(job, Job)
    n, degree, k = job.sizes
    storage = planned_storage(job)
    cells = [row.run_id, job.labels["arm"], str(degree), str(k), str(n), str(job.axes["layer"])]
    cells += [str(job.axes["seed"]), f"{storage.learned_decoder_values:,}", f"{storage.learned_parameters:,}"]
    cells += [f"{storage.compression:.1f}x", size(storage.artifact_bytes)]
    cells += ["", "", ""] if estimate is None else _taken(estimate)
    cells += [] if not gpu else [size(estimate.gpu) if estimate else ""]
    return [*cells, row.state]


def _taken(estimate: Estimate) -> list[str]:
    return [duration(estimate.seconds), estimate.source, size(estimate.memory)]


def _narrow(rows: Sequence[Row]) -> Table:
    """Two lines a run, for a terminal that the whole table does not fit in."""
    table = _new(("run", "what it is, and what it stores", "takes"))
    table.columns[0].width = 16  # a run id; what is longer folds
    for row in rows:
        cells = _cells(row, False)
        values, parameters, compression, stored, time, source, memory, state = cells[7:]
        assert isinstance(row.job, Job)
        what = f"{row.job.title}\n{values} values of {parameters}, {compression}, {stored}"
        takes = f"{time}, {memory}\n{source}" if row.estimate else "\n"
        table.add_row(f"{cells[0]}\n{state}", what, takes)
    return table


def _recovery_table(rows: Sequence[Row]) -> Table:
    table = _new(("run", "mask", "d", "k", "n", "noise", "seed", "time", "from", "memory", "state"))
    for row in rows:
        assert isinstance(row.job, RecoveryJob)
        spec = row.job.spec
        sizes = (spec.degree, spec.k, spec.n_latents, spec.config.noise, spec.seed)
        taken = ["", "", ""] if row.estimate is None else _taken(row.estimate)
        table.add_row(row.run_id, spec.config.mask, *(f"{value:g}" for value in sizes), *taken, row.state)
    return table


def _new(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        left = column in ("run", "arm", "mask", "from", "state") or column.startswith("what")
        table.add_column(column, justify="left" if left else "right", no_wrap=column not in ("run", "state"))
    return table
