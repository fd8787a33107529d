"""Print the table that ends a launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sae_core.inference import ENCODER
from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryJob
from sweep.plan.outliers import outlier_lines
from sweep.plan.plan import LeftOut, Planned, left_out_lines
from sweep.store.metric_names import PROBING, probing_means, probing_name
from sweep.store.records import COMPLETE, DROPPED, Record, read_record, run_folder
from sweep.store.versions import other_versions, versions
from sweep.workers.display import failure

NOT_FINISHED = "not finished"
Records = Mapping[str, Record | None]  # by run id
# Columns of the table: which run it is, what was found, and how the run ended.
_WHICH = ("run", "arm", "d", "k", "n", "layer", "seed")
_FOUND = ("compression", "CE recovered")
_ENDED = ("delta CE", "seconds", "status")
_BEST = 5  # latents of a probe that has a column
_TOLD = (
    f"told: accuracy of the best {_BEST} latents, read by the own encoder, over a family's labelled sets; .5 is chance"
)
_ANY_WIDTH = 10_000  # characters, more than any table has


def print_table(
    runs: Sequence[Planned],
    left_out: Sequence[LeftOut],
    why: Mapping[str, str] | None = None,
    console: Console | None = None,
    notes: Sequence[str] = (),
) -> int:
    """Print one row per run, what went wrong and the cells left out; return how many runs are not complete.

    Args:
        why: by run id, why a run has no record.
        notes: what else there is to say of the plan.
    """
    why, errors = why or {}, list[str]()
    records = {run.job.spec.run_id: read_record(run.job.runs_dir, run.job.spec.run_id) for run in runs}
    every = [(run, run.job) for run in runs if isinstance(run.job, Job)]
    saes = [(run, job) for run, job in every if job.spec.synthetic is None]
    readings = list(dict.fromkeys(name for _, job in saes for name in job.spec.eval.inference if name != ENCODER))
    families = list(dict.fromkeys(name for _, job in saes for name in job.spec.eval.probing))
    console = console or Console(highlight=False)
    if saes:
        columns = [*_WHICH, *_FOUND, *(f"by {name}" for name in readings), *(f"told {name}" for name in families)]
        rows = [_row(run, job, readings, families, records, why) for run, job in saes]
        errors += _print(console, [*columns, *_ENDED], rows, _TOLD if families else None)
    of_samples = [(run, job) for run, job in every if job.spec.synthetic is not None]
    if of_samples:
        readings = list(dict.fromkeys(name for _, job in of_samples for name in job.spec.eval.inference))
        columns = [*_WHICH, "compression", *(f"found by {name}" for name in readings), "FVU", "seconds", "status"]
        rows = [_sample_row(run, job, readings, records, why) for run, job in of_samples]
        errors += _print(console, columns, rows, "found: share of the features that a latent tells with F1 > .5")
    recoveries = [(run, run.job) for run in runs if isinstance(run.job, RecoveryJob)]
    if recoveries:
        names = list(dict.fromkeys(name for _, job in recoveries for name in job.spec.config.algorithms))
        columns = ["run", "mask", "d", "k", "n", "noise", "seed", *names, "seconds", "status"]
        rows = [_recovery_row(run, job, names, records, why) for run, job in recoveries]
        errors += _print(console, columns, rows, "share of trials whose picks are exactly the planted atoms")
    complete = [record for record in records.values() if record and record["status"] == COMPLETE]
    for line in [
        *_shortened(errors),
        *left_out_lines(left_out),
        *(f"note: {note}" for note in notes),
        *outlier_lines(runs),
        *_notes(complete),
    ]:
        console.print(line, markup=False, soft_wrap=True)
    return len(errors)


def _notes(complete: Sequence[Record]) -> list[str]:
    """Return a line for each way in which complete runs were made by other versions than today's."""
    return [
        f"note: {count} of {len(complete)} complete runs were made by {difference}; they stay as they are"
        for difference, count in other_versions(complete, versions()).items()
    ]


def _shortened(errors: Sequence[str]) -> list[str]:
    """Return the errors, with the runs that were not finished in one line at the end if they are more than three."""
    waiting = [error for error in errors if error.startswith(NOT_FINISHED)]
    if len(waiting) <= 3:
        return list(errors)
    first = waiting[0].removeprefix(f"{NOT_FINISHED}: ")
    others = [error for error in errors if not error.startswith(NOT_FINISHED)]
    return [*others, f"{NOT_FINISHED}: {len(waiting)} runs, the first {first}"]


def _print(
    console: Console, columns: Sequence[str], rows: Sequence[tuple[list[str], str]], caption: str | None = None
) -> list[str]:
    """Print the table of (cells, error) in `rows`, no cell cut, and return the errors that are not empty."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    for column in columns:
        left = column in ("run", "arm", "mask", "status")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for cells, _ in rows:
        table.add_row(*cells)
    # rich would cut cells to the width of a narrow terminal; with a wider console, long lines wrap instead.
    room = console.options.update(max_width=_ANY_WIDTH)
    console.width = max(console.width, console.measure(table, options=room).maximum)
    console.print(table)
    return [error for _, error in rows if error]


def _row(
    run: Planned,
    job: Job,
    readings: Sequence[str],
    families: Sequence[str],
    records: Records,
    why: Mapping[str, str],
) -> tuple[list[str], str]:
    """Return the cells of an SAE's row, and what went wrong with its run: empty if nothing did.

    Args:
        readings: the further ways of finding codes that have a column (`sae_core.inference`).
        families: the families of labelled sets that have a column (`sweep.probing.sets`).
    """
    record, cells = records[job.spec.run_id], _which(job)
    if record is None or record["status"] != COMPLETE:
        return _unfinished(run, record, [*cells, *[""] * (4 + len(readings) + len(families))], why)
    metrics, seconds = record["metrics"], record["timings"]["total"]
    cells += [job.compression(record["storage"]["learned_decoder_values"]), _recovered(metrics)]
    by = {name: record.get("inference", {}).get(name, {}) for name in readings}
    cells += [_recovered(found["metrics"]) if "metrics" in found else "" for found in by.values()]
    told = probing_means(record.get("probing", {}))
    scores = [told.get(probing_name(family, ENCODER, _BEST)) for family in families]
    cells += ["" if score is None else f"{score:.3f}" for score in scores]
    cells += [f"{metrics['delta_ce']:.4f}", f"{seconds:.1f}", _ending(run)]
    probed = {PROBING + family: found for family, found in record.get("probing", {}).items()}
    measured = {**by, "novelty": record.get("latents", {}).get("novelty", {}), **probed}
    reason = why.get(job.spec.run_id, "not measured")
    lacking = [f"{name} ({measured.get(name, {}).get('error', reason)})" for name in job.lacking(record)]
    return cells, f"not measured: {job.spec.run_id} {job.title}: {', '.join(lacking)}" if lacking else ""


def _sample_row(
    run: Planned, job: Job, readings: Sequence[str], records: Records, why: Mapping[str, str]
) -> tuple[list[str], str]:
    """Return the cells of the row of an SAE of a synthetic model, and what went wrong with its run."""
    record, cells = records[job.spec.run_id], _which(job)
    if record is None or record["status"] != COMPLETE:
        return _unfinished(run, record, [*cells, *[""] * (3 + len(readings))], why)
    by = {name: record["inference"].get(name, {}) for name in readings}
    found = [f"{of['metrics']['coverage']:.3f}" if "metrics" in of else "" for of in by.values()]
    cells += [job.compression(record["storage"]["learned_decoder_values"]), *found, f"{record['metrics']['fvu']:.4f}"]
    failed = [f"{name} ({of['error']})" for name, of in by.items() if "error" in of]
    error = f"not measured: {job.spec.run_id} {job.title}: {', '.join(failed)}" if failed else ""
    return [*cells, f"{record['timings']['total']:.1f}", _ending(run)], error


def _which(job: Job) -> list[str]:
    """Return the cells that say which run it is."""
    n, degree, k = job.sizes
    return [job.spec.run_id, job.labels["arm"], *map(str, (degree, k, n, job.axes["layer"])), job.seeds_in_words]


def _recovered(metrics: Mapping[str, Any]) -> str:
    return "undefined" if metrics["ce_recovered"] is None else f"{metrics['ce_recovered']:.4f}"


def _recovery_row(
    run: Planned, job: RecoveryJob, names: Sequence[str], records: Records, why: Mapping[str, str]
) -> tuple[list[str], str]:
    spec = job.spec
    record = records[spec.run_id]
    sizes = [spec.degree, spec.k, spec.n_latents, spec.config.noise, spec.seed]
    cells = [spec.run_id, spec.config.mask, *(f"{size:g}" for size in sizes)]
    if record is None or record["status"] != COMPLETE:
        return _unfinished(run, record, [*cells, *[""] * (1 + len(names))], why)
    found = [record["metrics"].get(f"{name}/exact_recovery") for name in names]
    shown = ["" if value is None else f"{value:.2f}" for value in found]
    return [*cells, *shown, f"{record['timings']['total']:.1f}", _ending(run)], ""


def _ending(run: Planned) -> str:
    return "skipped: done" if run.done else COMPLETE


def _unfinished(run: Planned, record: Record | None, cells: list[str], why: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the row and the error of a run that is not complete; `cells` is the row without its status."""
    run_id = run.job.spec.run_id
    which = f"{run_id} {run.job.title}"
    if record is None or record["status"] == DROPPED or run_id in why:  # only searches drop, and here one is asked for
        return [*cells, NOT_FINISHED], f"{NOT_FINISHED}: {which}" + (f": {why[run_id]}" if run_id in why else "")
    why_failed = failure(record, run_folder(run.job.runs_dir, run_id))
    return [*cells, record["status"]], f"failed: {which}: {why_failed}"
