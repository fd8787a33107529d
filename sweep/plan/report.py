"""Print a plan (`plan=true`): every run of a sweep, what it would store, its time and memory, and the totals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryJob
from sweep.machine.workers import Workers
from sweep.plan.estimate import PROBING, Estimate
from sweep.plan.footprint import planned_storage
from sweep.plan.outliers import outlier_lines
from sweep.plan.plan import Plan, left_out_lines
from sweep.plan.rows import FAILED_BEFORE, Row, rows_of
from sweep.plan.totals import duration, passes_of, totals
from sweep.store.human_size import human_size

_SIZES = ("d", "k", "n", "layer", "seed")
_STORED = ("values", "parameters", "compr.", "stored")
_TAKEN = ("time", "from", "memory")
_WIDE, _ARM = 165, 30  # characters per line that the whole table needs, and those of a label that it has room for


def print_plan(plan: Plan, workers: Workers, console: Console | None = None, budget: float = PROBING) -> None:
    """Print one row per run, the cells left out, and the totals. Nothing is trained.

    Args:
        workers: the workers that the launch would have.
        budget: seconds for probes of training steps that no finished run has timed.
    """
    threads = workers.threads or torch.get_num_threads()
    rows, basis = rows_of(plan, threads, budget)
    passes = passes_of(rows, basis)
    console = console or Console(highlight=False)
    saes = [row for row in rows if isinstance(row.job, Job)]
    wide = _WIDE + max([len(row.job.labels["arm"]) - _ARM for row in saes if isinstance(row.job, Job)] + [0])
    if not console.is_terminal:  # a file or a pipe, which has room for lines of any length
        console.width = max(console.width, wide)
    if saes:
        console.print(_wide_table(saes) if console.width >= wide else _narrow_table(saes))
    synthetic = [row for row in rows if isinstance(row.job, RecoveryJob)]
    if synthetic:
        console.print(_recovery_table(synthetic))
    for row in rows:
        if row.error:
            _print_line(console, f"{FAILED_BEFORE}: {row.run_id} {row.job.title}: {row.error}")
    said = [*left_out_lines(plan.left_out), *(f"note: {note}" for note in plan.notes)]
    for line in [*said, *totals(plan, rows, passes, workers, threads), *outlier_lines(plan.runs)]:
        _print_line(console, line)


def _print_line(console: Console, line: str) -> None:
    """Print a line uncut, however long it is."""
    console.print(line, markup=False, soft_wrap=True)


def _wide_table(rows: Sequence[Row]) -> Table:
    gpu = any(row.estimate and row.estimate.gpu for row in rows)
    table = _new_table(["run", "arm", *_SIZES, *_STORED, *_TAKEN, *(["GPU"] if gpu else []), "state"])
    for row in rows:
        table.add_row(*_row_cells(row, gpu))
    return table


def _row_cells(row: Row, gpu: bool) -> list[str]:
    job, estimate = row.job, row.estimate
    assert isinstance(job, Job)
    n, degree, k = job.sizes
    storage = planned_storage(job)
    cells = [row.run_id, job.labels["arm"], str(degree), str(k), str(n), str(job.axes["layer"])]
    cells += [job.seeds_in_words, f"{storage.learned_decoder_values:,}", f"{storage.learned_parameters:,}"]
    cells += [job.compression(storage.learned_decoder_values), human_size(storage.artifact_bytes)]
    cells += ["", "", ""] if estimate is None else _estimate_cells(estimate)
    cells += [] if not gpu else [human_size(estimate.gpu) if estimate else ""]
    return [*cells, row.state]


def _estimate_cells(estimate: Estimate) -> list[str]:
    return [duration(estimate.seconds), estimate.origin, human_size(estimate.memory)]


def _narrow_table(rows: Sequence[Row]) -> Table:
    """Return a table of two lines a run, for a terminal that the whole table does not fit in."""
    table = _new_table(("run", "what it is, and what it stores", "takes"))
    table.columns[0].width = 16  # as wide as a run id; a longer state is folded
    for row in rows:
        cells = _row_cells(row, gpu=False)
        values, parameters, compression, stored, time, origin, memory, state = cells[7:]
        assert isinstance(row.job, Job)
        parts = [f"{values} values of {parameters}", compression, stored]
        what = f"{row.job.title}\n{', '.join(filter(None, parts))}"
        takes = f"{time}, {memory}\n{origin}" if row.estimate else "\n"
        table.add_row(f"{cells[0]}\n{state}", what, takes)
    return table


def _recovery_table(rows: Sequence[Row]) -> Table:
    table = _new_table(("run", "mask", "d", "k", "n", "noise", "seed", "time", "from", "memory", "state"))
    for row in rows:
        assert isinstance(row.job, RecoveryJob)
        spec = row.job.spec
        sizes = (spec.degree, spec.k, spec.n_latents, spec.config.noise, spec.seed)
        taken = ["", "", ""] if row.estimate is None else _estimate_cells(row.estimate)
        table.add_row(row.run_id, spec.config.mask, *(f"{value:g}" for value in sizes), *taken, row.state)
    return table


def _new_table(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        left = column in ("run", "arm", "mask", "from", "state") or column.startswith("what")
        folded = column in ("run", "state") or column.startswith("what")
        table.add_column(column, justify="left" if left else "right", no_wrap=not folded, overflow="fold")
    return table
