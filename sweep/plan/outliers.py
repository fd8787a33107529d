"""Say which layers of a sweep have tokens that are not ordinary, once each: how many, and how large."""

from __future__ import annotations

from collections.abc import Iterable

from sweep.activations.cache import norms_of_entry
from sweep.activations.norms import Norms, norms_from
from sweep.jobs.job import Job
from sweep.plan.plan import Planned
from sweep.store.records import read_record


def outlier_lines(runs: Iterable[Planned]) -> list[str]:
    """Return a line for each activation entry of the runs that has such tokens, as far as that is known by now.

    It is known from the entry, or from the record of a run that trained on it.
    """
    found: dict[str, str] = {}
    for run in runs:
        job = run.job
        if not isinstance(job, Job) or job.spec.activations.name in found:
            continue
        norms = _norms_at(job)
        if norms is not None and (words := norms.in_words()) is not None:
            kept = job.spec.activations.outlier_norm is None
            fate = "treated like the others (eval.tokens=all)" if kept else "left out"
            found[job.spec.activations.name] = f"{job.model.label}, layer {job.axes['layer']}: {words}; {fate}"
    return list(found.values())


def _norms_at(job: Job) -> Norms | None:
    known = norms_of_entry(job.cache_dir, job.spec.activations)
    if known is None and (record := read_record(job.runs_dir, job.spec.run_id)) is not None:
        known = norms_from(record.get("activations", {}).get("norms"))
    return known
