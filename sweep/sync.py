"""`python -m sweep.sync [LAUNCH|all]`: send a sweep's finished runs that are not there yet to Weights & Biases (W&B).

A run is sent from its record and its curve, so it does not matter whether it was logged offline, online until the
network failed, or not at all. The server is asked how much of a run it has and gets the rest. So an upload that was
interrupted goes on where it stopped; `wandb sync` would append the whole run once more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import urlsplit

from sweep.store.hashes import short_hash
from sweep.store.launches import ALL, LaunchNotFoundError, add_launch, find_launch
from sweep.store.records import COMPLETE, SENT, Record, iterate_records, read_record, run_folder
from sweep.tracking.outage import unreachable
from sweep.tracking.wandb_tracker import TrackerConfig, WandbTracker

_AT_ONCE = 4  # uploads at the same time


def finished_records(runs_dir: Path, launch: str | None) -> Iterator[Record]:
    """Yield the record of every run that has ended, failed runs among them.

    Args:
        launch: the launch whose runs are meant, by the beginning of its name; None for the latest launch, "all" for the
            whole run store.

    Raises:
        LaunchNotFoundError: there is no such launch.
    """
    if launch == ALL:
        yield from (record for _, record in iterate_records(runs_dir) if record is not None)
        return
    for run in find_launch(runs_dir, launch).runs:
        record = read_record(runs_dir, run["run_id"])
        if record is not None:
            yield record


def destination(record: Record, project: str | None, entity: str | None) -> TrackerConfig:
    """Return where the run is to go: to `project` and `entity` if given, else where its own settings say."""
    launched = (record.get("config") or {}).get("tracker") or {}
    chosen: str = project or launched.get("project") or TrackerConfig.project
    return TrackerConfig("online", chosen, entity or launched.get("entity"), tuple(launched.get("tags") or ()))


def address_if_sent(folder: Path, record: Record, to: TrackerConfig) -> str | None:
    """Return the run's address in W&B if the whole of its present record was sent to `to`, else None."""
    try:
        sent = json.loads((folder / SENT).read_text())
        entity, project = urlsplit(sent["url"]).path.split("/")[1:3]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = project == to.project and to.entity in (None, entity)
    return sent["url"] if there and sent.get("record") == short_hash(record) else None


def send(runs_dir: Path, record: Record, to: TrackerConfig) -> None:
    """Send what W&B lacks of the run. Raise W&B's own error if the run is not whole there afterwards."""
    folder = run_folder(runs_dir, record["run_id"])
    tracker = WandbTracker(folder, "online", to, record)
    failed = record["status"] != COMPLETE
    tracker.summary(record)
    if not failed and (record.get("config") or {}).get("save_artifact"):
        tracker.artifact(folder, f"sae-{record['run_id']}")
    tracker.finish(failed)


def send_all(runs_dir: Path, asked: list[tuple[Record, TrackerConfig]]) -> int:
    """Send each run to its place, a few at a time, and print a line for each; return how many could not be sent."""
    failed = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        under_way = {pool.submit(send, runs_dir, record, to): record for record, to in asked}
        try:
            for number, done in enumerate(as_completed(under_way), start=1):
                record, error = under_way[done], done.exception()
                failed += error is not None
                outcome = f"failed: {' '.join(str(error).split())}" if error else "sent"
                print(f"[{number}/{len(asked)}] {_named(record)}: {outcome}", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _named(record: Record) -> str:
    return f"{record['run_id']} {record.get('title', '')}".rstrip()


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        left = _left_to_send(args)
        if args.dry_run or not left:
            for record, to in left:
                print(f"{_named(record)}: would go to {to.entity or 'your own account'}, project {to.project}")
            return 0
        if (reason := unreachable()) is not None:
            return _error(f"Weights & Biases cannot be reached ({reason})")
        failed = send_all(args.runs, left)
    except LaunchNotFoundError as error:
        return _error(f"{error}. `all` in place of LAUNCH sends every run in the run store, with or without a launch")
    except KeyboardInterrupt:
        print("interrupted: the same command sends the rest", file=sys.stderr)
        return 130
    if failed:
        return _error(f"{failed} of {len(left)} runs could not be sent; the same command tries again")
    return 0


def _left_to_send(args: argparse.Namespace) -> list[tuple[Record, TrackerConfig]]:
    """Return the finished runs that W&B does not have yet, each with where it is to go; print the counts."""
    records = list(finished_records(args.runs, args.launch))
    asked = [(record, destination(record, args.project, args.entity)) for record in records]
    folders = [run_folder(args.runs, record["run_id"]) for record in records]
    there = [address_if_sent(folder, *run) is not None for folder, run in zip(folders, asked, strict=True)]
    if not records:
        print("no run is at an end: there is nothing to send")
    else:
        failed = sum(record["status"] != COMPLETE for record in records)
        of_them = f", {failed} of them failed" if failed else ""
        plural = "s" * (len(records) > 1)
        print(f"{len(records)} run{plural} at an end{of_them}, {sum(there)} in Weights & Biases already")
    return [run for run, is_there in zip(asked, there, strict=True) if args.again or not is_there]


def _error(message: str) -> int:
    """Print the message as an error; return the exit code for it."""
    print(f"error: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.sync",
        description="Send a sweep's finished runs that are not there yet to Weights & Biases (W&B).",
    )
    add_launch(parser, "for every run in the run store")
    parser.add_argument("--project", help="the W&B project (default: each run's own tracker.project)")
    parser.add_argument(
        "--entity", help="the W&B user or team (default: each run's own tracker.entity, else your account)"
    )
    parser.add_argument("--again", action="store_true", help="send runs that are there already once more")
    parser.add_argument("--dry-run", action="store_true", help="only list the runs that would be sent, and where to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
