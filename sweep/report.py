"""The table that ends a launch."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from sae_core.inference import ENCODER
from sweep.plan import LeftOut, Planned
from sweep.store import COMPLETE, read_record, unmeasured

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
    others = list(dict.fromkeys(name for run in runs for name in run.job.spec.eval.inference if name != ENCODER))
    # A terminal narrower than the table would cut its columns; long lines are left to wrap instead.
    console = console or Console(highlight=False, width=max(Console().width, 150 + 16 * len(others)))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = [*_COLUMNS[:-3], *(f"by {name}" for name in others), *_COLUMNS[-3:]]
    for column in columns:
        table.add_column(column, justify="left" if column in ("run", "arm", "status") else "right", no_wrap=True)
    errors: list[str] = []
    for run in runs:
        cells, error = _row(run, others)
        table.add_row(*cells)
        errors += [error] if error else []
    console.print(table)
    for error in errors:
        console.print(error, markup=False, soft_wrap=True)
    for cell in left_out:
        console.print(f"left out: {' '.join(cell.overrides)}: {cell.reason}", markup=False, soft_wrap=True)
    return len(errors)


def _row(run: Planned, others: Sequence[str]) -> tuple[list[str], str]:
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
        by = {name: record.get("inference", {}).get(name, {}) for name in others}
        cells += [f"{found['metrics']['ce_recovered']:.4f}" if "metrics" in found else "" for found in by.values()]
        cells += [f"{metrics['delta_ce']:.4f}", f"{seconds:.1f}", "skipped: done" if run.done else COMPLETE]
        lacking = [f"{name} ({by[name].get('error', 'not measured')})" for name in unmeasured(record, others)]
        return cells, f"not measured: {job.spec.run_id} {job.title}: {', '.join(lacking)}" if lacking else ""
    cells += [""] * (4 + len(others))
    if record is None:
        return [*cells, "not finished"], f"not finished: {job.spec.run_id} {job.title}"
    return [*cells, record["status"]], f"failed: {job.spec.run_id} {job.title}: {record.get('error', 'unknown error')}"
