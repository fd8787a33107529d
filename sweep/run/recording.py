"""What every kind of run leaves behind: the start of its record, its log, its tracker."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sae_core.arms import Sizes
from sweep.store.files import remove_left
from sweep.store.progress import RunProgress
from sweep.store.records import COMPLETE, FAILED, SCHEMA, Record, write_record
from sweep.store.versions import versions
from sweep.tracking.outage import Outage, unreachable
from sweep.tracking.wandb_tracker import Guarded, NoTracker, Tracker, TrackerConfig, WandbTracker
from sweep.train.loop import Stopped

LOG = "run.log"
STOPPED = "stopped"  # a status that no record on disk has


class UnwrittenError(ValueError):
    """A run has ended and its record could not be written."""


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


class Recording(NamedTuple):
    """What a run fills in and speaks to while it is under way."""

    record: Record
    tracker: Guarded
    say: RunProgress


@contextmanager
def recording(job: Recorded, folder: Path, d_in: int, artifact: bool = False) -> Iterator[Recording]:
    """Around the work of one run: leaves its record, log and tracker behind, whatever becomes of it.

    A failure does not go further: it is a record of status "failed" with the error. An interrupt leaves no record, nor
    does `Stopped`, whose record stays in memory with the status STOPPED.

    Args:
        artifact: also hand the tracker the SAE in `folder`, where the work succeeds.
    """
    remove_left(folder)
    say, record, started = RunProgress(folder), new_record(job, d_in), time.perf_counter()
    tracker = guarded_tracker(job, record, folder)
    try:
        yield Recording(record, tracker, say)
        record["status"] = COMPLETE
    except Stopped as asked:
        record["status"], record["error"] = STOPPED, str(asked)
        log(folder, str(asked))
        tracker.finish(failed=True)
        return
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
    _write(job.runs_dir, record)
    log(folder, f"{record['status']} after {record['timings']['total']:.1f} s")


def _write(runs_dir: Path, record: Record) -> None:
    try:
        write_record(runs_dir, record)
    except OSError as error:
        before = f"; the run had failed: {record['error']}" if "error" in record else ""
        raise UnwrittenError(f"runs_dir={runs_dir}: its record cannot be written ({error.strerror}){before}") from None


def new_record(job: Recorded, d_in: int) -> Record:
    """The record of a run that has not got anywhere yet: it counts as failed until it says otherwise."""
    return {
        "schema": SCHEMA,
        "run_id": job.spec.run_id,
        "status": FAILED,
        "spec": job.spec.as_json(),
        "labels": job.labels,
        "title": job.title,
        "axes": job.axes,
        "sizes": {"d_in": d_in, **job.sizes._asdict()},
        "storage": {},
        "metrics": {},
        "timings": {},
        "versions": versions(),
        "config": job.settings,
    }


def guarded_tracker(job: Recorded, record: Record, folder: Path) -> Guarded:
    """The tracker that the job's settings ask for; that it failed is said once a launch, and in each run's log."""
    launch = job.runs_dir / "launches" / job.labels["sweep"]
    outage = Outage(launch)

    def say(reason: str) -> None:
        log(folder, reason)
        outage.note(reason)

    def start() -> Tracker:
        tracker = _start_tracker(job, record, folder, outage, say)
        if isinstance(tracker, WandbTracker):
            _gather(tracker.files, launch / "wandb")
        return tracker

    return Guarded(start, say)


def _start_tracker(job: Recorded, record: Record, folder: Path, outage: Outage, say: Callable[[str], None]) -> Tracker:
    mode = job.tracker.mode
    if mode == "disabled":
        return NoTracker()
    if mode == "online" and outage.lately():
        mode = "offline"
    elif mode == "online" and (reason := unreachable()) is not None:
        say(f"tracker.mode=online: Weights & Biases cannot be had ({reason}), so runs are logged offline")
        mode = "offline"
    return WandbTracker(folder, mode, job.tracker, record)


def _gather(files: Path, place: Path) -> None:
    """Let `place` lead to a session's files, so that `wandb leet` shows a sweep's runs side by side."""
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        run_id = files.name.rpartition("-")[2]
        for earlier in place.glob(f"*-{run_id}"):
            earlier.unlink()
        (place / files.name).symlink_to(os.path.relpath(files, place), target_is_directory=True)


def log(folder: Path, text: str) -> None:
    """One more entry in the run's log, with the time; a full disk costs the entry, not the run."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with suppress(OSError), open(folder / LOG, "a") as stream:
        stream.write(f"{now} {text.rstrip()}\n")


def one_line(error: BaseException) -> str:
    """The error as a record keeps it; its kind goes before it where the text alone may not say enough."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
