"""The runs that a dashboard shows, and how Weights & Biases tells them from the other runs of a project."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from sweep.store.launches import ALL, FAILED, Launch, find_launch, states
from sweep.store.records import COMPLETE, DROPPED, RECOVERY, iterate_records, read_record


class Shown(NamedTuple):
    """The runs of one launch, or of every launch of a run store."""

    name: str  # the launch's name, or ALL
    arms: dict[str, str]  # run id -> arm
    command: str  # the command that launched the runs; empty for ALL
    about: str  # how many of the runs are complete; it continues the sentence that `command` begins
    groups: tuple[str, ...]  # the W&B groups that the runs are in; none where every run of the project is meant
    only: tuple[str, ...]  # run ids, where the groups hold other runs too

    @property
    def title(self) -> str:
        """The name of the dashboard, for people."""
        return "All sweeps" if self.name == ALL else f"Sweep {self.name}"


def find_shown(runs_dir: Path, name: str | None) -> Shown:
    """Return the runs of the launch `name`, of the latest launch for None, or of all launches for ALL.

    Raises:
        sweep.store.launches.LaunchNotFoundError: there is no such launch.
    """
    return _every_run(runs_dir) if name == ALL else _runs_of(find_launch(runs_dir, name), runs_dir)


def _every_run(runs_dir: Path) -> Shown:
    records = [record for _, record in iterate_records(runs_dir) if record and record.get("kind") != RECOVERY]
    arms = {record["run_id"]: record["labels"]["arm"] for record in records if "labels" in record}
    counts = Counter(record["status"] for record in records)
    return Shown(ALL, arms, "", f"Every run of the project. In the run store: {_counted(counts)}.", (), ())


def _runs_of(launch: Launch, runs_dir: Path) -> Shown:
    """Return the runs of a launch.

    A run that an earlier launch finished stays in that launch's group, beside runs that this launch did not ask for.
    """
    name, arms = launch.folder.name, {run["run_id"]: run["arm"] for run in launch.runs}
    groups = {_group(runs_dir, run_id) or name for run_id in arms} or {name}
    others = groups - {name} and any(
        record is not None and record["run_id"] not in arms and record.get("labels", {}).get("sweep") in groups
        for _, record in iterate_records(runs_dir)
    )
    counts = Counter(state.state for state in states(launch, runs_dir))
    command, about = f"python -m sweep {launch.about['command']}", f"asked for {len(arms)} run(s): {_counted(counts)}."
    return Shown(name, arms, command, about, tuple(sorted(groups)), tuple(sorted(arms)) if others else ())


def _group(runs_dir: Path, run_id: str) -> str | None:
    """Return the W&B group that a run is in: the launch that finished it; None where it has no record."""
    record = read_record(runs_dir, run_id)
    return record.get("labels", {}).get("sweep") if record else None


def _counted(counts: Counter[str]) -> str:
    dropped = f", {counts[DROPPED]} dropped" if counts[DROPPED] else ""
    return f"{counts[COMPLETE]} complete, {counts[FAILED]} failed{dropped}"
