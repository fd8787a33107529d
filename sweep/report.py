"""The table that ends a launch."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from sweep.plan import LeftOut, Planned
from sweep.store import COMPLETE, read_record

_COLUMNS = (
    "run",
    "arm",
    "d",
    "k",
    "n",
    "layer",
    "seed",
    "compression",
    "CE recovered",
    "delta CE",
    "seconds",
    "status",
)


def print_table(runs: Sequence[Planned], left_out: Sequence[LeftOut], console: Console | None = None) -> int:
    """Print one row per run and the cells left out; return how many runs are not complete."""
    # A terminal narrower than the table would cut its columns; long lines are left to wrap instead.
    console = console or Console(highlight=False, width=max(Console().width, 140))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("run", "arm", "status") else "right", no_wrap=True)
    errors: list[str] = []
    for run in runs:
        cells, error = _row(run)
        table.add_row(*cells)
        errors += [error] if error else []
    console.print(table)
    for error in errors:
        console.print(error, markup=False, soft_wrap=True)
    for cell in left_out:
        console.print(f"left out: {' '.join(cell.overrides)}: {cell.reason}", markup=False, soft_wrap=True)
    return len(errors)


def _row(run: Planned) -> tuple[list[str], str]:
    job, sizes = run.job, run.job.sizes
    record = read_record(job.runs_dir, job.spec.run_id)
    cells = [job.spec.run_id, job.labels["arm"], str(sizes.degree), str(sizes.k), str(sizes.n_latents)]
    cells += [str(job.axes["layer"]), str(job.axes["seed"])]
    if record is not None and record["status"] == COMPLETE:
        metrics, seconds = record["metrics"], record["timings"]["total"]
        values = record["storage"]["learned_decoder_values"]
        # Against dense atoms at the n asked for: m/d for an expander, m*n/(m*n') for dense_matched.
        compression = job.info.d_model * job.axes["n"] / values
        cells += [f"{compression:.1f}x", f"{metrics['ce_recovered']:.4f}"]
        cells += [f"{metrics['delta_ce']:.4f}", f"{seconds:.1f}", "skipped: done" if run.done else COMPLETE]
        return cells, ""
    cells += ["", "", "", ""]
    if record is None:
        return [*cells, "not finished"], f"not finished: {job.spec.run_id} {job.title}"
    return [*cells, record["status"]], f"failed: {job.spec.run_id} {job.title}: {record.get('error', 'unknown error')}"
