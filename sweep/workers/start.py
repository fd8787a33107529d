"""A sweep's runs -> workers, started by whichever Hydra launcher is chosen."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from sweep.jobs.job import Job
from sweep.machine.process import machine_memory
from sweep.machine.workers import Workers, no_more_processes_than, workers_of
from sweep.plan.estimate import planned_memory
from sweep.plan.plan import LeftOut, Planned
from sweep.run.once import unfinished_needs
from sweep.run.recording import one_line
from sweep.store.files import write_json
from sweep.store.owners import running
from sweep.store.records import LAUNCH, PROGRESS, read_record, run_folder
from sweep.store.versions import code_hash
from sweep.workers.display import Display
from sweep.workers.worker import settled, write_work

_STARTED = datetime.now(UTC).isoformat(timespec="seconds")  # this process
_POLL = 0.5  # seconds between looks at a lost worker's siblings
_OF_MEMORY = 0.9  # of the machine's that workers may take together
_MOST = 1000  # workers of one start: their folders' numbers stay apart
_TRIES = 3  # launches in a row that may end without finishing a run


def launch_folder(master: DictConfig) -> Path:
    return Path(master.hydra.sweep.dir)


def write_launch(folder: Path, runs: Sequence[Planned], left_out: Sequence[LeftOut], study: Any = None) -> None:
    """Say in `folder` what this launch is for, for `sweep.status` and for people; a search says more as it goes on."""
    listed = [
        {"run_id": run.job.spec.run_id, "title": run.job.title, "axes": run.job.axes, "arm": run.job.labels["arm"]}
        for run in runs
    ]
    about = {
        "started": _STARTED,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": " ".join(sys.argv[1:]),
        "code": code_hash(),
        "study": study,
        "runs": listed,
        "left_out": [{"overrides": cell.overrides, "reason": cell.reason} for cell in left_out],
    }
    write_json(folder / LAUNCH, about)


def workers(master: DictConfig, runs: Sequence[Planned] = ()) -> Workers:
    """How many workers the sweep's config starts, for these runs where they are known, and the CPU threads of each.

    Where neither launch.workers nor a scheduler says how many, no more than there is memory for.
    """
    asked = OmegaConf.select(master, "launch.workers")
    launcher = master.hydra.launcher
    found = workers_of(launcher, master.threads, asked)
    if not runs:
        return found
    useful = min(found.count, len(runs))
    if asked is None and "n_jobs" in launcher:
        largest = max(planned_memory(run.job) for run in runs)
        useful = min(useful, max(1, int(_OF_MEMORY * machine_memory() / largest)))
    return found if useful == found.count else workers_of(launcher, master.threads, useful)  # fewer share the CPUs


def launch(
    runs: Sequence[Planned], launcher: Launcher, master: DictConfig, shown: int = 0, total: int | None = None
) -> dict[str, str]:
    """Have the launcher's workers carry out `runs`; returns by run id why a run left no record, where it left none.

    Workers that are lost (killed, out of memory) cost no other run: the rest goes on in new ones, what may have been
    the reason last, and by one worker where no run was finished, unless that happens again and again.

    Args:
        master: the sweeper's own config, with its `hydra` node.
        shown, total: runs of the sweep that ended before these, and of the whole sweep, for the display.
    """
    folder = launch_folder(master)
    left, why, tries = list(runs), dict[str, str](), 0
    needed = [job for r in runs if isinstance(r.job, Job) for job in unfinished_needs(r.job)]
    titles = {job.spec.run_id: job.title for job in [*needed, *(r.job for r in runs)]}
    with Display(runs[0].job.runs_dir, list(titles.items()), shown, total):
        while left and tries < _TRIES:
            lost = _start(left, launcher, master, folder, why, alone=tries > 0)
            still = [r for r in left if r.job.spec.run_id not in why and not _settled(r)]
            if not lost:
                left = []
            elif still:
                tries = tries + 1 if len(still) == len(left) else 0
                say = "the others go on" if tries < _TRIES else "given up"
                print(f"a worker was lost ({lost}): {len(still)} run(s) left, {say}", file=sys.stderr)
                why |= {r.job.spec.run_id: f"its worker was lost ({lost})" for r in still} if tries == _TRIES else {}
                left = sorted(_without_siblings(still), key=_last_said)
            else:
                left = []
    return why


def _without_siblings(left: Sequence[Planned]) -> list[Planned]:
    """Those of `left` that are left once no worker is at any of them.

    Some launchers leave a lost worker's siblings at work, and these take what is free.
    """
    quiet = 0
    while quiet < 2:  # between two runs a worker holds no lock
        busy = any(running(run_folder(r.job.runs_dir, r.job.spec.run_id)) for r in left)
        quiet = 0 if busy else quiet + 1
        time.sleep(_POLL)
    return [r for r in left if not _settled(r)]


def _start(
    left: Sequence[Planned], launcher: Launcher, master: DictConfig, folder: Path, why: dict[str, str], alone: bool
) -> str | None:
    """Launch workers once and wait for them; what they say goes into `why`. Returns how one was lost, if one was."""
    number = next(n for n in itertools.count() if not (folder / f"work-{n}.json").exists())
    count, threads = workers(master, left[:1] if alone else left)
    no_more_processes_than(launcher, count)
    work = (folder / f"work-{number}.json").absolute()
    share = OmegaConf.select(master, "launch.share") or 1
    jobs = [[*_common(master), f"launch.work={work}"]] * count
    try:
        write_work(work, folder.name, share, [_settings(run, threads) for run in left])
        ended = launcher.launch(jobs, initial_job_idx=number * _MOST)
    except ValueError:  # the launcher's settings
        raise
    except Exception as error:  # a worker that was killed: what it and its siblings finished is on disk
        return one_line(error) if isinstance(error, OSError) else type(error).__name__
    lost = None
    for job in ended:
        lost = _said(job, why) or lost
    return lost


def _common(master: DictConfig) -> list[str]:
    """What all runs of the sweep are asked for. Hydra composes a worker's config anew, and `hydra.launcher.n_jobs=4`
    has a place there only with the experiment that brings the launcher."""
    asked = list(master.hydra.overrides.task)
    parsed = OverridesParser.create().parse_overrides(asked)
    return [argument for argument, override in zip(asked, parsed, strict=True) if not override.is_sweep_override()]


def _said(job: JobReturn, why: dict[str, str]) -> str | None:
    if job.status == JobStatus.COMPLETED:
        why.update(job.return_value or {})
        return None
    error = job._return_value  # `return_value` would raise it
    return one_line(error) if isinstance(error, BaseException) else str(error)


def _settings(run: Planned, threads: int | None) -> dict[str, Any]:
    settings = run.job.settings
    layers = list(run.job.layers_together) if isinstance(run.job, Job) else []
    return {**settings, "threads": settings["threads"] or threads, "layers_together": layers}


def _last_said(run: Planned) -> int:
    """When the run's worker last said something, where it came to no end."""
    try:
        return (run_folder(run.job.runs_dir, run.job.spec.run_id) / PROGRESS).stat().st_mtime_ns
    except OSError:
        return 0


def _settled(run: Planned) -> bool:
    return settled(run.job, read_record(run.job.runs_dir, run.job.spec.run_id))
