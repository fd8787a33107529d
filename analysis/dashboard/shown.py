"""Which runs a dashboard shows, and how Weights & Biases tells them from a project's other ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from sweep.store.launches import ALL, FAILED, Launch, find_launch, states
from sweep.store.records import COMPLETE, RECOVERY, iterate_records, read_record


class Shown(NamedTuple):
    """The runs of one launch, or of every launch of a run store."""

    name: str  # the launch's, or ALL
    arms: dict[str, str]  # run id -> arm
    command: str  # that launched them
    about: str  # what became of them, in a sentence
    groups: tuple[str, ...]  # the W&B groups that the runs are in; none where every run of the project is meant
    only: tuple[str, ...]  # run ids, where the groups hold other runs too

    @property
    def title(self) -> str:
        return "All sweeps" if self.name == ALL else f"Sweep {self.name}"


def find_shown(runs_dir: Path, name: str | None) -> Shown:
    """The launch `name` (the latest where that is None), or ALL. Raises `sweep.store.launches.StatusError`: no such launch."""
    return _everything(runs_dir) if name == ALL else _of_launch(find_launch(runs_dir, name), runs_dir)


def _everything(runs_dir: Path) -> Shown:
    records = [record for _, record in iterate_records(runs_dir) if record and record.get("kind") != RECOVERY]
    arms = {record["run_id"]: record["labels"]["arm"] for record in records if "labels" in record}
    counts = Counter(record["status"] for record in records)
    return Shown(ALL, arms, "", f"Every run of the project; in the run store {_counted(counts)}.", (), ())


def _of_launch(launch: Launch, runs_dir: Path) -> Shown:
    """A run that an earlier launch finished stays in that one's group, beside runs which nobody asked for here."""
    name, arms = launch.folder.name, {run["run_id"]: run["arm"] for run in launch.runs}
    groups = {_group(runs_dir, run_id) or name for run_id in arms} or {name}
    others = groups - {name} and any(
        record is not None and record["run_id"] not in arms and record.get("labels", {}).get("sweep") in groups
        for _, record in iterate_records(runs_dir)
    )
    counts = Counter(state.state for state in states(launch, runs_dir))
    command, about = f"python -m sweep {launch.about['command']}", f"Of {len(arms)} run(s) {_counted(counts)}."
    return Shown(name, arms, command, about, tuple(sorted(groups)), tuple(sorted(arms)) if others else ())


def _group(runs_dir: Path, run_id: str) -> str | None:
    record = read_record(runs_dir, run_id)
    return record.get("labels", {}).get("sweep") if record else None


def _counted(counts: Counter[str]) -> str:
    return f"{counts[COMPLETE]} complete, {counts[FAILED]} failed"
