"""`python -m sweep.evaluate run=ID eval.inference=[omp]`: measure finished runs further, without training."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from sweep.jobs.job import Job
from sweep.jobs.recorded import CHANGE_NO_RESULT, has_an_sae, job_of, parse_settings
from sweep.launch import command, explain
from sweep.plan.plan import Planned
from sweep.run.once import preflight, run_measured_together, same_clean_pass
from sweep.store.records import Record, iterate_records, read_record
from sweep.workers.display import Display
from sweep.workers.table import print_table

USAGE = """python -m sweep.evaluate run=ID[,ID...] eval.inference=[omp,refit,...] [KEY=VALUE ...]

  run=all            every finished run under runs_dir
  eval.inference=[]  encoder, topk, refit, omp, gomp{L}, mp, mp_refit, mp_cg{T},
                     mp_floor{P}, nested_floor{P}, niht, cosamp (sae_core/inference.py)
  eval.novelty=true  compare latents with the dense_tied SAE of the same layer, n and k, which is trained if missing
  eval.contexts=5    write each latent's strongest contexts, for python -m analysis latents run=ID
  KEY=VALUE          a setting that changes no result: runs_dir (runs), cache_dir, device, backend, threads, and where
                     the LM and the text are now (model.path, corpus.path)"""

_TOGETHER = 16  # runs whose SAEs are in memory at a time
_MAY_CHANGE = ("eval", *CHANGE_NO_RESULT)


@command(USAGE)
def main(arguments: list[str]) -> int:
    """Measure the runs that are named, and print the table. Return the exit code: 0 if all went well."""
    names = ",".join(word.removeprefix("run=") for word in arguments if word.startswith("run="))
    given = parse_settings([word for word in arguments if not word.startswith("run=")], _MAY_CHANGE, "sweep.evaluate")
    runs_dir = Path(given.get("runs_dir", "runs"))
    planned = [_planned(record, given, runs_dir) for record in _records(names, runs_dir)]
    todo = [entry.job for entry in planned if not entry.done and isinstance(entry.job, Job)]
    for job in todo:
        preflight(job)
    for together in _groups(todo):
        with Display(runs_dir, [(job.spec.run_id, job.title) for job in together]):
            _measure(together)
    return 1 if print_table(planned, []) else 0


def _groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Yield the runs in groups that are measured on the same clean pass of the LM, a few at a time."""
    left = list(jobs)
    while left:
        together = [job for job in left if same_clean_pass(left[0], job)][:_TOGETHER]
        left = [job for job in left if job not in together]
        yield together


def _measure(jobs: list[Job]) -> None:
    """Measure runs. If that is not possible for one, say why and go on with the others."""
    try:
        results = run_measured_together(jobs)
    except (ValueError, OSError) as error:  # a run that one of them needs cannot be made
        if len(jobs) == 1:
            results = [error]
        else:
            for job in jobs:
                _measure([job])
            return
    for job, result in zip(jobs, results, strict=True):
        if isinstance(result, ValueError | OSError):
            print(f"failed: {job.spec.run_id} {job.title}: {explain(result)}", file=sys.stderr)
        elif isinstance(result, Exception):
            raise result


def _records(names: str, runs_dir: Path) -> list[Record]:
    """Return the records asked for. Raise ValueError for one that is not there or not complete."""
    if names == "all":
        found = [record for _, record in iterate_records(runs_dir) if record and has_an_sae(record)]
        if not found:
            raise ValueError(f"run=all: no finished run under {runs_dir} (runs_dir)")
        return found
    if not names:
        raise ValueError("run= must name a run, several with commas between, or all")
    records: list[Record] = []
    for name in names.split(","):
        record = read_record(runs_dir, name) if re.fullmatch("[0-9a-f]+", name) else None
        if record is None or not has_an_sae(record):
            raise ValueError(f"run={name}: no finished run of that id under {runs_dir} (runs_dir)")
        records.append(record)
    return records


def _planned(record: Record, given: DictConfig, runs_dir: Path) -> Planned:
    job = job_of(record, given, runs_dir)
    return Planned([], job, True, not job.lacking(record))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
