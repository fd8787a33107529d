"""Which runs a sweep makes: every distinct cell once, impossible cells left out with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from omegaconf import DictConfig

from sae_core.arms import CellError
from sweep.build import Job, build
from sweep.lm import ModelNotHereError
from sweep.recovery import RecoveryJob
from sweep.store import COMPLETE, read_record


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
        ValueError: a setting is wrong, or no LM asked for is to be had; nothing should be launched.
    """
    runs: dict[str, Planned] = {}
    left_out: list[LeftOut] = []
    missing: ModelNotHereError | None = None
    for overrides, cfg in cells:
        try:
            job = build(cfg, sweep)
        except (CellError, ModelNotHereError) as reason:
            left_out.append(LeftOut(overrides, str(reason)))
            missing = missing or (reason if isinstance(reason, ModelNotHereError) else None)
            continue
        if job.spec.run_id in runs:
            continue
        record = read_record(job.runs_dir, job.spec.run_id)
        if record is None or record["status"] != COMPLETE:
            runs[job.spec.run_id] = Planned(overrides, job, False, False)
        else:
            runs[job.spec.run_id] = Planned(overrides, job, True, not job.lacking(record))
    if missing and not runs:
        raise missing
    return Plan(list(runs.values()), left_out)


def _source(job: Job) -> dict:
    return {**job.spec.activations.__dict__, "layer": None}
