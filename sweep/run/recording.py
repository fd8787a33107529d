"""The record, the log and the tracker that every run leaves behind, however it ends."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from sweep.jobs.job import AnyJob
from sweep.store.files import remove_left
from sweep.store.progress import RunProgress
from sweep.store.records import COMPLETE, DROPPED, FAILED, LOG, SCHEMA, Record, write_record
from sweep.store.versions import versions
from sweep.tracking.outage import Outage, unreachable
from sweep.tracking.wandb_tracker import FailsafeTracker, NoTracker, Tracker, WandbTracker
from sweep.train.loop import Stopped


class UnwrittenError(ValueError):
    """The record of a run that has ended cannot be written."""


class Recording(NamedTuple):
    """The record that a run fills in while it is under way, with the tracker and the display that it reports to."""

    record: Record
    tracker: FailsafeTracker
    say: RunProgress


@contextmanager
def recording(job: AnyJob, folder: Path, d_in: int, artifact: bool = False) -> Iterator[Recording]:
    """Surround the work of one run, and leave its record, log and tracker behind however the work ends.

    A failure does not go further: it becomes a record of status "failed" with the error. `Stopped` becomes one of
    status "dropped", which says where and why. An interrupt leaves no record.

    Args:
        artifact: also hand the SAE in `folder` to the tracker if the work succeeds.
    """
    remove_left(folder)
    say, record, started = RunProgress(folder), new_record(job, d_in), time.perf_counter()
    tracker = failsafe_tracker(job, record, folder)
    try:
        yield Recording(record, tracker, say)
        record["status"] = COMPLETE
    except Stopped as asked:
        record["status"], record["dropped"] = DROPPED, {"step": asked.step, "why": asked.why}
        log(folder, str(asked))
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
        raise UnwrittenError(f"runs_dir={runs_dir}: a record cannot be written ({error.strerror}){before}") from None


def new_record(job: AnyJob, d_in: int) -> Record:
    """Return the record of a run that has just begun. It counts as failed until the run is complete."""
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


def failsafe_tracker(job: AnyJob, record: Record, folder: Path) -> FailsafeTracker:
    """Return the tracker that the job's settings ask for.

    If the tracker fails, each run's log says so, and the terminal once per launch.
    """
    launch = job.runs_dir / "launches" / job.launch
    outage = Outage(launch)

    def say(reason: str) -> None:
        log(folder, reason)
        outage.note(reason)

    def start() -> Tracker:
        tracker = _start_tracker(job, record, folder, outage, say)
        if isinstance(tracker, WandbTracker):
            _gather(tracker.files, launch / "wandb")
        return tracker

    return FailsafeTracker(start, say)


def _start_tracker(job: AnyJob, record: Record, folder: Path, outage: Outage, say: Callable[[str], None]) -> Tracker:
    mode = job.tracker.mode
    if mode == "disabled":
        return NoTracker()
    if mode == "online" and outage.lately():
        mode = "offline"
    elif mode == "online" and (reason := unreachable()) is not None:
        say(f"tracker.mode=online: Weights & Biases cannot be reached ({reason}), so runs are logged offline")
        mode = "offline"
    return WandbTracker(folder, mode, job.tracker, record)


def _gather(files: Path, place: Path) -> None:
    """Link a session's files into the folder `place`, so that `wandb leet` shows a sweep's runs side by side."""
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        run_id = files.name.rpartition("-")[2]
        for earlier in place.glob(f"*-{run_id}"):
            earlier.unlink()
        (place / files.name).symlink_to(os.path.relpath(files, place), target_is_directory=True)


def log(folder: Path, text: str) -> None:
    """Add an entry to the run's log, with the time. A full disk costs the entry, not the run."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with suppress(OSError), open(folder / LOG, "a") as stream:
        stream.write(f"{now} {text.rstrip()}\n")


def one_line(error: BaseException) -> str:
    """Return the error as one line, as a record keeps it; errors other than ValueError name their type first."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
