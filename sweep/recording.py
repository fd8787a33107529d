"""What every kind of run leaves behind: the start of its record, its log, its tracker."""

from __future__ import annotations

import importlib.metadata
import platform
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from sae_core.arms import Sizes
from sweep.progress import RunProgress
from sweep.store import COMPLETE, FAILED, SCHEMA, Record, write_record
from sweep.tracking import Guarded, NoTracker, Tracker, TrackerConfig, WandbTracker

LOG = "run.log"


class Spec(Protocol):
    @property
    def run_id(self) -> str: ...

    def as_json(self) -> dict[str, Any]: ...


class Recorded(Protocol):
    """The part of a job that recording needs."""

    @property
    def spec(self) -> Spec: ...

    @property
    def axes(self) -> dict[str, int]: ...

    @property
    def labels(self) -> dict[str, str]: ...

    @property
    def sizes(self) -> Sizes: ...

    @property
    def title(self) -> str: ...

    @property
    def tracker(self) -> TrackerConfig: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def runs_dir(self) -> Path: ...


Work = Callable[[Record, Guarded, RunProgress], None]  # fills the record in


def recorded(job: Recorded, folder: Path, d_in: int, work: Work, artifact: bool = False) -> Record:
    """Do `work` and leave its record, log and tracker behind, whatever becomes of it; return the record.

    A failure is a record of status "failed" with the error; only an interrupt leaves none.

    Args:
        artifact: also hand the tracker the SAE in `folder`, where the work succeeds.
    """
    say, record, started = RunProgress(folder), new_record(job, d_in), time.perf_counter()
    tracker = Guarded(lambda: start_tracker(job, folder))
    try:
        work(record, tracker, say)
        record["status"] = COMPLETE
    except Exception as error:
        record["status"], record["error"] = FAILED, one_line(error)
        log(folder, traceback.format_exc())
    except BaseException:  # Ctrl-C: no record
        tracker.finish(failed=True)
        raise
    finally:
        say.close()
    record["timings"]["total"] = round(time.perf_counter() - started, 3)
    record["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    tracker.summary(record)
    if artifact and record["status"] == COMPLETE:
        tracker.artifact(folder, f"sae-{job.spec.run_id}")
    tracker.finish(failed=record["status"] != COMPLETE)
    write_record(job.runs_dir, record)
    log(folder, f"{record['status']} after {record['timings']['total']:.1f} s")
    return record


def new_record(job: Recorded, d_in: int) -> Record:
    """The record of a run that has not got anywhere yet: it counts as failed until it says otherwise."""
    return {
        "schema": SCHEMA,
        "run_id": job.spec.run_id,
        "status": FAILED,
        "spec": job.spec.as_json(),
        "labels": job.labels,
        "axes": job.axes,
        "sizes": {"d_in": d_in, **job.sizes._asdict()},
        "storage": {},
        "metrics": {},
        "timings": {},
        "versions": versions(),
        "config": job.settings,
    }


def versions() -> dict[str, str]:
    """Of what can change a result."""
    packages = ("torch", "transformers", "numpy", "expander-sae-sweep")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "unknown"
    return found


def start_tracker(job: Recorded, folder: Path) -> Tracker:
    """The tracker that the job's settings ask for."""
    if job.tracker.mode == "disabled":
        return NoTracker()
    settings: dict[str, Any] = {
        "id": job.spec.run_id,
        "name": job.title,
        "group": job.labels["sweep"],
        "job_type": job.labels["arm"],
        "tags": [*job.tracker.tags, job.labels["model"], job.labels["arm"]],
        "config": {
            "settings": job.settings,  # the whole resolved config
            "spec": job.spec.as_json(),
            "axes": job.axes,
            "sizes": job.sizes._asdict(),
            "labels": job.labels,
        },
    }
    return WandbTracker(folder, job.tracker.mode, job.tracker.project, job.tracker.entity, settings)


def log(folder: Path, text: str) -> None:
    """One more entry in the run's log, with the time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with open(folder / LOG, "a") as stream:
        stream.write(f"{now} {text.rstrip()}\n")


def one_line(error: BaseException) -> str:
    """The error as a record keeps it; its kind goes before it where the text alone may not say enough."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
