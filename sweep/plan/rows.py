"""List a plan's runs and the runs that they need first, each with its state, and the time and memory it will take."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryJob
from sweep.plan.estimate import Basis, Estimate, Remaining, estimate_run, gather_basis
from sweep.plan.plan import Plan, Planned
from sweep.run.once import unfinished_needs
from sweep.store.lock_holders import find_holder
from sweep.store.records import CHECKPOINT, COMPLETE, DROPPED, FAILED, Record, read_record, run_folder

TO_DO, FAILED_BEFORE = "to do", "failed last time"


class Row(NamedTuple):
    """A run of the plan, or one that such a run needs first."""

    run_id: str
    job: Job | RecoveryJob
    state: str
    error: str  # why it failed last time; empty where it did not
    remaining: Remaining | None  # None where nothing is left to do
    estimate: Estimate | None

    @property
    def to_be_trained(self) -> bool:
        """True if an SAE is to be trained for this run."""
        return isinstance(self.job, Job) and self.remaining is not None and self.remaining.lacking is None


def rows_of(plan: Plan, threads: int, budget: float) -> tuple[list[Row], Basis]:
    """Return a row for each run, with its estimate, and what the estimates are made from.

    A run that another one needs first, and that is neither in the plan nor done, stands before that one.

    Args:
        threads: CPU threads of a worker.
        budget: seconds that probes of training steps may take together.
    """
    found: dict[str, Row] = {}
    asked = {run.job.spec.run_id: run for run in plan.runs}
    for run_id, run in asked.items():
        record = read_record(run.job.runs_dir, run_id)
        lacking = run.job.lacking(record) if run.trained and record else None
        remaining = None if run.done else Remaining(run.job, lacking)
        for needed in unfinished_needs(run.job) if remaining and isinstance(run.job, Job) else ():
            its_id = needed.spec.run_id
            if its_id not in asked and its_id not in found:
                found[its_id] = Row(its_id, needed, f"{TO_DO} first, for {run_id}", "", Remaining(needed, None), None)
        state = _state(run, run_folder(run.job.runs_dir, run_id), record, lacking)
        found[run_id] = Row(run_id, run.job, state, _error_in(record), remaining, None)
    basis = gather_basis([row.remaining for row in found.values() if row.remaining], threads, budget)
    rows = [row._replace(estimate=row.remaining and estimate_run(row.remaining, basis)) for row in found.values()]
    return rows, basis


def _state(run: Planned, folder: Path, record: Record | None, lacking: list[str] | None) -> str:
    """Return the state of the run in words."""
    if run.done:
        return COMPLETE
    holder = find_holder(folder)
    if holder is not None:
        who = ", ".join(f"{word} {value}" for word, value in (("on", holder.host), ("pid", holder.pid)) if value)
        return f"running now ({who})" if who else "running now"
    if lacking is not None:
        return f"{COMPLETE}, lacks {', '.join(lacking)}"
    if (folder / CHECKPOINT).exists():
        return "dropped before, has a checkpoint" if record and record["status"] == DROPPED else "has a checkpoint"
    return FAILED_BEFORE if record and record["status"] == FAILED else TO_DO


def _error_in(record: Record | None) -> str:
    return record.get("error", "unknown error") if record and record["status"] == FAILED else ""
