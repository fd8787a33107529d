"""`python -m sweep.sync [LAUNCH|all]`: send a sweep's finished runs to Weights & Biases, those that are not there yet.

A run is sent from its record and its curve, so it does not matter whether it was logged offline, online until the
network went, or not at all. The server is asked how much of a run it has, and gets the rest: what was interrupted goes
on there, where `wandb sync` would append the whole run once more.
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
from sweep.store.launches import ALL, StatusError, add_launch, find_launch
from sweep.store.records import COMPLETE, SENT, Record, iterate_records, read_record, run_folder
from sweep.tracking.outage import unreachable
from sweep.tracking.wandb_tracker import TrackerConfig, WandbTracker

_AT_ONCE = 4


def chosen(runs_dir: Path, launch: str | None) -> Iterator[Record]:
    """The records, failed ones too, of the runs of a launch, or with "all" of the run store.

    Raises:
        StatusError: there is no such launch.
    """
    if launch == ALL:
        yield from (record for _, record in iterate_records(runs_dir) if record is not None)
        return
    for run in find_launch(runs_dir, launch).runs:
        record = read_record(runs_dir, run["run_id"])
        if record is not None:
            yield record


def destination(record: Record, project: str | None, entity: str | None) -> TrackerConfig:
    """Where the run is to go: as said here, else as it was launched."""
    launched = (record.get("config") or {}).get("tracker") or {}
    to: str = project or launched.get("project") or TrackerConfig.project
    return TrackerConfig("online", to, entity or launched.get("entity"), tuple(launched.get("tags") or ()))


def sent(folder: Path, record: Record, to: TrackerConfig) -> str | None:
    """The run's address in W&B where it is there as the record has it now, else None."""
    try:
        said = json.loads((folder / SENT).read_text())
        entity, project = urlsplit(said["url"]).path.split("/")[1:3]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = project == to.project and to.entity in (None, entity)
    return said["url"] if there and said.get("record") == short_hash(record) else None


def send(runs_dir: Path, record: Record, to: TrackerConfig) -> None:
    """Bring the run in W&B to what its record says. Raises whatever kept it from being whole there."""
    folder = run_folder(runs_dir, record["run_id"])
    tracker = WandbTracker(folder, "online", to, record)
    failed = record["status"] != COMPLETE
    tracker.summary(record)
    if not failed and (record.get("config") or {}).get("save_artifact"):
        tracker.artifact(folder, f"sae-{record['run_id']}")
    tracker.finish(failed)


def send_all(runs_dir: Path, asked: list[tuple[Record, TrackerConfig]]) -> int:
    """Send each, a few at once, and say so; returns how many could not be."""
    failed = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        under_way = {pool.submit(send, runs_dir, record, to): record for record, to in asked}
        try:
            for number, done in enumerate(as_completed(under_way), start=1):
                record, error = under_way[done], done.exception()
                failed += error is not None
                what = f"failed: {' '.join(str(error).split())}" if error else "sent"
                print(f"[{number}/{len(asked)}] {record['run_id']} {record.get('title', '')}: {what}", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        records = list(chosen(args.runs, args.launch))
        asked = [(record, destination(record, args.project, args.entity)) for record in records]
        left = [(r, to) for r, to in asked if args.again or sent(run_folder(args.runs, r["run_id"]), r, to) is None]
        print(f"{len(records)} finished runs, {len(records) - len(left)} in Weights & Biases already")
        if args.dry_run or not left:
            for record, to in left:
                print(f"{record['run_id']} {record.get('title', '')}: would go to {to.entity or 'you'}/{to.project}")
            return 0
        if (reason := unreachable()) is not None:
            print(f"error: Weights & Biases cannot be had ({reason})", file=sys.stderr)
            return 1
        failed = send_all(args.runs, left)
    except StatusError as error:
        print(f"error: {error}; `all` is every run, those of no sweep too", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command sends the rest", file=sys.stderr)
        return 130
    if failed:
        print(f"error: {failed} of {len(left)} runs could not be sent; the same command tries again", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.sync",
        description="Send a sweep's finished runs to Weights & Biases, those that are not there yet.",
    )
    add_launch(parser, "for the run store")
    parser.add_argument("--project", help="W&B project (default: each run's tracker.project)")
    parser.add_argument("--entity", help="W&B user or team (default: each run's tracker.entity, else your own)")
    parser.add_argument("--again", action="store_true", help="also runs that are there already")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent")
    return parser


if __name__ == "__main__":
    sys.exit(main())
