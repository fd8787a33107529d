"""Decide which runs a sweep makes, and which of its cells are impossible and left out.

A cell is one combination of the values that a sweep lists. Cells that ask for the same run make it once, with all the
measurements that any of them asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from sae_core.arms import CellError
from sweep.activations.cache import CacheKey
from sweep.jobs.build import build
from sweep.jobs.job import AnyJob, Job
from sweep.jobs.recovery import RecoveryJob
from sweep.lm.find import ModelNotHereError
from sweep.plan.footprint import planned_storage
from sweep.plan.merging import in_words, merged, wishes
from sweep.store.launches import FAILED, find_launch, states
from sweep.store.records import COMPLETE, read_record


class Planned(NamedTuple):
    """A run of a sweep, and how much of it the run store has already."""

    overrides: list[str]  # those that distinguish the run's cell from the other cells of its sweep
    job: Job | RecoveryJob
    trained: bool  # its record is complete already
    done: bool  # it is trained, and its record has every measurement asked for


class LeftOut(NamedTuple):
    """A cell that no run can have."""

    overrides: list[str]
    reason: str


class Plan(NamedTuple):
    """The runs of a sweep, and the cells that it leaves out."""

    runs: list[Planned]  # distinct run ids, in the order asked
    left_out: list[LeftOut]
    notes: tuple[str, ...] = ()  # what became of cells that ask for the run of another cell

    @property
    def todo(self) -> list[Planned]:
        """The runs that are not done."""
        return [run for run in self.runs if not run.done]


def make_plan(cells: Iterable[tuple[list[str], DictConfig]], launch: str) -> Plan:
    """Build the run of every cell, and set aside the cells that are impossible.

    Args:
        cells: (overrides that distinguish the cell, composed config) of every combination.
        launch: the launch's name.

    Raises:
        ValueError: a setting is wrong, or none of the LMs asked for is there, or cells that ask for the same run want
            it made in different ways; nothing should be launched.
    """
    runs: dict[str, list[Planned]] = {}  # the cells of each run
    left_out: list[LeftOut] = []
    not_here: ModelNotHereError | None = None
    for overrides, cfg in cells:
        try:
            job = build(cfg, launch)
            check_budget(job, cfg.budget_bytes)
        except (CellError, ModelNotHereError) as reason:
            left_out.append(LeftOut(overrides, str(reason)))
            not_here = not_here or (reason if isinstance(reason, ModelNotHereError) else None)
            continue
        runs.setdefault(job.spec.run_id, []).append(_planned(overrides, job))
    if not_here and not runs:
        raise not_here
    return Plan(_with_layers([reduce(joined, cells) for cells in runs.values()]), left_out, _notes(runs.values()))


def only_failed(plan: Plan, runs_dir: Path, launch: str) -> Plan:
    """Return the runs of the plan that failed in an earlier launch, and no cell left out.

    Args:
        launch: the launch's name, or how it begins.

    Raises:
        LaunchNotFoundError: there is no such launch, or several.
    """
    found = find_launch(runs_dir, launch)
    failed = {state.run_id for state in states(found, runs_dir) if state.state == FAILED}
    kept = [run for run in plan.runs if run.job.spec.run_id in failed]
    return plan._replace(runs=kept, left_out=[])


def joined(one: Planned, other: Planned) -> Planned:
    """Return one run that does what two cells ask of it. Raises ValueError where they want it made differently."""
    return one._replace(job=merged(one.job, other.job), done=one.done and other.done)


def _planned(overrides: list[str], job: AnyJob) -> Planned:
    record = read_record(job.runs_dir, job.spec.run_id)
    trained = record is not None and record["status"] == COMPLETE
    return Planned(overrides, job, trained, record is not None and trained and not job.lacking(record))


def _notes(runs: Iterable[list[Planned]]) -> tuple[str, ...]:
    """Return a line on cells that only add measurements to another cell's run, and one on those that add nothing."""
    adding, repeating, first = 0, 0, ""
    for cells in runs:
        kinds = len({wishes(cell.job) for cell in cells})
        adding, repeating = adding + kinds - 1, repeating + len(cells) - kinds
        if kinds > 1 and not first:
            run = reduce(joined, cells)
            first = f"{run.job.title} with {in_words(run.job)}"
    notes = [f"{adding} cell(s) ask for more of another cell's run, which gets all of it: {first}"] if adding else []
    notes += (
        [f"{repeating} cell(s) ask for the same as another cell, and make no run of their own"] if repeating else []
    )
    return tuple(notes)


def check_budget(job: Job | RecoveryJob, budget: int | None) -> None:
    """Raise CellError if the file of the job's SAE would be larger than `budget` bytes; None allows any size."""
    if budget is not None and isinstance(job, Job) and (size := planned_storage(job).artifact_bytes) > budget:
        raise CellError(f"its file of {size:,} bytes is larger than budget_bytes={budget:,}")


def _with_layers(runs: list[Planned]) -> list[Planned]:
    """Return `runs`, each knowing the layers of all untrained runs on the same LM and text: one pass captures them."""
    layers: dict[CacheKey, set[int]] = {}
    for run in runs:
        if isinstance(run.job, Job) and not run.trained:
            layers.setdefault(_lm_and_text(run.job), set(run.job.layers_together)).add(run.job.axes["layer"])
    return [run if run.trained else run._replace(job=_with_layers_together(run.job, layers)) for run in runs]


def _with_layers_together(job: Job | RecoveryJob, layers: dict[CacheKey, set[int]]) -> Job | RecoveryJob:
    if isinstance(job, RecoveryJob):
        return job
    return replace(job, layers_together=tuple(sorted(layers[_lm_and_text(job)])))


def _lm_and_text(job: Job) -> CacheKey:
    return replace(job.spec.activations, layer=0)


def left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """Return a line for each reason, with the cells that are left out for it."""
    found: dict[str, list[LeftOut]] = {}
    for cell in left_out:
        found.setdefault(cell.reason, []).append(cell)
    lines: list[str] = []
    for reason, cells in found.items():
        which = " ".join(cells[0].overrides)
        lines.append(f"left out: {which if len(cells) == 1 else f'{len(cells)} cells, the first {which}'}: {reason}")
    return lines
