"""The runs of a plan as they stand, with those that they need first, and what each is estimated to take."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryJob
from sweep.plan.estimate import Basis, Estimate, Remaining, basis, estimated
from sweep.plan.plan import Plan, Planned
from sweep.run.once import unfinished_needs
from sweep.store.owners import running
from sweep.store.records import CHECKPOINT, COMPLETE, FAILED, Record, read_record, run_folder

TO_DO, FAILED_BEFORE = "to do", "failed last time"


class Row(NamedTuple):
    """A run of the plan, or one that such a run needs first."""

    run_id: str
    job: Job | RecoveryJob
    state: str
    why: str  # it failed
    wanted: Remaining | None  # None where nothing is left to do
    estimate: Estimate | None


def rows_of(plan: Plan, threads: int, budget: float) -> tuple[list[Row], Basis]:
    """The plan's runs, each after those that it needs and that are neither in the plan nor done."""
    found: dict[str, Row] = {}
    asked = {run.job.spec.run_id: run for run in plan.runs}
    for run_id, run in asked.items():
        record = read_record(run.job.runs_dir, run_id)
        lacking = run.job.lacking(record) if run.trained and record else None
        wanted = None if run.done else Remaining(run.job, lacking)
        for needed in unfinished_needs(run.job) if wanted and isinstance(run.job, Job) else ():
            its_id = needed.spec.run_id
            if its_id not in asked and its_id not in found:
                found[its_id] = Row(its_id, needed, f"{TO_DO} first, for {run_id}", "", Remaining(needed, None), None)
        state = _state(run, run_folder(run.job.runs_dir, run_id), record, lacking)
        found[run_id] = Row(run_id, run.job, state, _why(record), wanted, None)
    known = basis([row.wanted for row in found.values() if row.wanted], threads, budget)
    return [row._replace(estimate=row.wanted and estimated(row.wanted, known)) for row in found.values()], known


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
