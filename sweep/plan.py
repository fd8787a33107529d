"""Which runs a sweep makes: every distinct cell once, impossible cells left out with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from sae_core.arms import CellError
from sweep.build import Job, build_job
from sweep.store import COMPLETE, read_record


class Planned(NamedTuple):
    overrides: list[str]
    job: Job
    done: bool  # its record is complete already


class LeftOut(NamedTuple):
    overrides: list[str]
    reason: str


class Plan(NamedTuple):
    runs: list[Planned]  # distinct run ids, in the order asked
    left_out: list[LeftOut]

    @property
    def todo(self) -> list[Planned]:
        return [run for run in self.runs if not run.done]

    def layers(self, job: Job) -> list[int]:
        """Layers of the unfinished runs that read the same LM and text as `job`: one pass captures them all."""
        same = [run.job for run in self.todo if _source(run.job) == _source(job)]
        return sorted({other.axes["layer"] for other in same})


def make_plan(cells: Iterable[tuple[list[str], DictConfig]], sweep: str) -> Plan:
    """Build and sort all cells.

    Args:
        cells: (overrides, composed config) of every combination.

    Raises:
        ValueError: a setting is wrong; nothing should be launched.
    """
    runs: dict[str, Planned] = {}
    left_out: list[LeftOut] = []
    for overrides, cfg in cells:
        try:
            job = build_job(cfg, sweep)
        except CellError as reason:
            left_out.append(LeftOut(overrides, str(reason)))
            continue
        if job.spec.run_id in runs:
            continue
        runs[job.spec.run_id] = Planned(overrides, job, _is_done(job.runs_dir, job.spec.run_id))
    return Plan(list(runs.values()), left_out)


def _is_done(runs_dir: Path, run_id: str) -> bool:
    record = read_record(runs_dir, run_id)
    return record is not None and record["status"] == COMPLETE


def _source(job: Job) -> dict:
    return {**job.spec.activations.__dict__, "layer": None}
