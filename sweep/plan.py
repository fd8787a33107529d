"""Which runs a sweep makes: every distinct cell once, impossible cells left out with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from omegaconf import DictConfig

from sae_core.arms import CellError
from sweep.build import Job, build
from sweep.recovery import RecoveryJob
from sweep.store import COMPLETE, read_record, unmeasured


class Planned(NamedTuple):
    overrides: list[str]
    job: Job | RecoveryJob
    trained: bool  # its record is complete already
    done: bool  # and has every measurement asked for


class LeftOut(NamedTuple):
    overrides: list[str]
    reason: str


class Plan(NamedTuple):
    runs: list[Planned]  # distinct run ids, in the order asked
    left_out: list[LeftOut]

    @property
    def todo(self) -> list[Planned]:
        return [run for run in self.runs if not run.done]

    def layers(self, job: Job | RecoveryJob) -> list[int]:
        """Layers of the untrained runs that read the same LM and text as `job`: one pass captures them all."""
        if isinstance(job, RecoveryJob):
            return []
        others = [run.job for run in self.todo if isinstance(run.job, Job) and not run.trained]
        return sorted({other.axes["layer"] for other in others if _source(other) == _source(job)})


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
            job = build(cfg, sweep)
        except CellError as reason:
            left_out.append(LeftOut(overrides, str(reason)))
            continue
        if job.spec.run_id in runs:
            continue
        record = read_record(job.runs_dir, job.spec.run_id)
        if record is None or record["status"] != COMPLETE:
            runs[job.spec.run_id] = Planned(overrides, job, False, False)
        else:
            done = isinstance(job, RecoveryJob) or not unmeasured(record, job.inference)
            runs[job.spec.run_id] = Planned(overrides, job, True, done)
    return Plan(list(runs.values()), left_out)


def _source(job: Job) -> dict:
    return {**job.spec.activations.__dict__, "layer": None}
