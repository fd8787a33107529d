"""Start the workers that carry out a sweep's runs, by whichever Hydra launcher is chosen."""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweep.jobs.job import Job
from sweep.jobs.overrides import quoted
from sweep.machine.process import machine_memory
from sweep.machine.workers import Workers, limit_joblib_processes, workers_of
from sweep.plan.footprint import planned_memory
from sweep.plan.plan import LeftOut, Planned
from sweep.private_names import result_or_error
from sweep.run.once import unfinished_needs
from sweep.run.recording import one_line
from sweep.store.files import write_json
from sweep.store.lock_holders import find_holder
from sweep.store.records import LAUNCH, PROGRESS, read_record, run_folder
from sweep.store.versions import code_hash
from sweep.workers.display import Display
from sweep.workers.worker import settled, write_work

_STARTED = datetime.now(UTC).isoformat(timespec="seconds")  # when this process started
_POLL = 0.5  # seconds between looks at a lost worker's siblings
_MEMORY_SHARE = 0.9  # the most of the machine's memory that workers may take together
_MOST_WORKERS = 1000  # workers of one start, so that the numbers of their folders stay apart
_MOST_TRIES = 3  # starts in a row that may end without finishing a run


def launch_folder(master: DictConfig) -> Path:
    """Return the launch's folder under `launches/`."""
    return Path(master.hydra.sweep.dir)


def write_launch(folder: Path, runs: Sequence[Planned], left_out: Sequence[LeftOut], study: Any = None) -> None:
    """Write to `folder` what this launch is for, for `python -m sweep.status` and for people.

    A search writes it again whenever it starts more runs.

    Args:
        study: a search's name, target and sampler; None for a grid.
    """
    listed = [
        {"run_id": run.job.spec.run_id, "title": run.job.title, "axes": run.job.axes, "arm": run.job.labels["arm"]}
        for run in runs
    ]
    about = {
        "started": _STARTED,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": " ".join(sys.argv[1:]),
        "arguments": sys.argv[1:],
        "code": code_hash(),
        "study": study,
        "runs": listed,
        "left_out": [{"overrides": cell.overrides, "reason": cell.reason} for cell in left_out],
    }
    write_json(folder / LAUNCH, about)


def workers(master: DictConfig, runs: Sequence[Planned] = ()) -> Workers:
    """Return how many workers the sweep's config starts for `runs`, and the CPU threads of each.

    There are no more workers than runs, and where neither launch.workers nor a scheduler says how many, no more than
    there is memory for.

    Args:
        runs: empty where they are not known.
    """
    asked = OmegaConf.select(master, "launch.workers")
    if asked is None and _streamed(runs):
        asked = 1  # each worker would make an LM pass of its own
    launcher = master.hydra.launcher
    found = workers_of(launcher, master.threads, asked)
    if not runs:
        return found
    useful = min(found.count, len(runs))
    if asked is None and "n_jobs" in launcher:
        largest = max(planned_memory(run.job) for run in runs)
        useful = min(useful, max(1, int(_MEMORY_SHARE * machine_memory() / largest)))
    return found if useful == found.count else workers_of(launcher, master.threads, useful)  # fewer share the CPUs


def _streamed(runs: Sequence[Planned]) -> bool:
    """Tell whether the runs train on activations that come straight from the LM (cache.mode=stream)."""
    return any(isinstance(run.job, Job) and run.job.spec.activations.stream is not None for run in runs)


def launch(
    runs: Sequence[Planned], launcher: Launcher, master: DictConfig, shown: int = 0, total: int | None = None
) -> dict[str, str]:
    """Have the launcher's workers carry out `runs`; return {run id: reason} for the runs that left no record.

    A worker that is lost (killed, out of memory) costs no other run: new workers go on with the rest. Runs that may
    have caused the loss come last. After a start that finished no run, the next start has one worker only. Three such
    starts in a row end the launch.

    Args:
        master: the sweeper's own config, with its `hydra` node.
        shown: for the display, how many runs of the sweep ended before these.
        total: for the display, how many runs the whole sweep has; None if `runs` are the whole sweep.
    """
    folder = launch_folder(master)
    left, why, tries, some_lost = list(runs), dict[str, str](), 0, False
    needed = [job for r in runs if isinstance(r.job, Job) for job in unfinished_needs(r.job)]
    titles = {job.spec.run_id: job.title for job in [*needed, *(r.job for r in runs)]}
    with Display(runs[0].job.runs_dir, list(titles.items()), shown, total):
        while left and tries < _MOST_TRIES:
            lost = _start(left, launcher, master, folder, why, alone=tries > 0, apart=some_lost)
            still = [r for r in left if r.job.spec.run_id not in why and not _settled(r)]
            if not lost or not still:
                break
            some_lost = True
            tries = tries + 1 if len(still) == len(left) else 0
            given_up = tries == _MOST_TRIES
            what = "given up" if given_up else "the others go on"
            print(f"a worker was lost ({lost}): {len(still)} run(s) left, {what}", file=sys.stderr)
            if given_up:
                why |= {r.job.spec.run_id: f"its worker was lost ({lost})" for r in still}
            left = sorted(_once_siblings_have_ended(still), key=_last_progress)
    return why


def _once_siblings_have_ended(left: Sequence[Planned]) -> list[Planned]:
    """Wait until no worker is at work on a run of `left`, and return the runs that are still to be done.

    Some launchers leave a lost worker's siblings at work, and these take the runs that are free.
    """
    quiet = 0
    while quiet < 2:  # between two runs a worker holds no lock
        busy = any(find_holder(run_folder(r.job.runs_dir, r.job.spec.run_id)) for r in left)
        quiet = 0 if busy else quiet + 1
        time.sleep(_POLL)
    return [r for r in left if not _settled(r)]


def _start(
    left: Sequence[Planned],
    launcher: Launcher,
    master: DictConfig,
    folder: Path,
    why: dict[str, str],
    alone: bool,
    apart: bool,
) -> str | None:
    """Launch workers once and wait for them; return why a worker was lost, or None if none was.

    Args:
        why: gets the reasons that the workers return, by run id.
        alone: start one worker only.
        apart: a worker was lost before, so none may run in the present process.
    """
    number = next(n for n in itertools.count() if not (folder / f"work-{n}.json").exists())
    count, threads = workers(master, left[:1] if alone else left)
    limit_joblib_processes(launcher, count, apart)
    work = (folder / f"work-{number}.json").absolute()
    share = len(left) if _streamed(left) else OmegaConf.select(master, "launch.share") or 1
    jobs = [[*_shared_overrides(master), f"launch.work={quoted(str(work))}"]] * count
    try:
        fail_fast = bool(OmegaConf.select(master, "launch.fail_fast"))
        write_work(work, folder.name, share, [_settings(run, threads) for run in left], fail_fast)
        ended = launcher.launch(jobs, initial_job_idx=number * _MOST_WORKERS)
    except (ValueError, HydraException, OmegaConfBaseException):  # a setting is wrong, and stays so
        raise
    except Exception as error:  # a worker was killed; what it and its siblings finished is on disk
        return one_line(error) if isinstance(error, OSError) else type(error).__name__
    lost = None
    for job in ended:
        lost = _error_of(job, why) or lost
    return lost


def _shared_overrides(master: DictConfig) -> list[str]:
    """Return the command line's overrides that all runs of the sweep share.

    A worker needs them because Hydra composes the worker's config anew: for example, that config only has the key
    `hydra.launcher.n_jobs` if it chooses the experiment that chooses the launcher.
    """
    # Unresolved, as the user gave them: resolving would take the escape from `\${`.
    asked = cast(list[str], OmegaConf.to_container(master.hydra.overrides.task, resolve=False))
    parsed = OverridesParser.create().parse_overrides(asked)
    return [argument for argument, override in zip(asked, parsed, strict=True) if not override.is_sweep_override()]


def _error_of(job: JobReturn, why: dict[str, str]) -> str | None:
    """Return why the worker was lost. If it was not, return None and put the reasons that it returned into `why`."""
    if job.status == JobStatus.COMPLETED:
        why.update(job.return_value or {})
        return None
    error = result_or_error(job)
    return one_line(error) if isinstance(error, BaseException) else str(error)


def _settings(run: Planned, threads: int | None) -> dict[str, Any]:
    """Return the run's whole config in the form in which a worker gets it."""
    settings = run.job.settings
    layers = list(run.job.layers_together) if isinstance(run.job, Job) else []
    return {**settings, "threads": settings["threads"] or threads, "layers_together": layers}


def _last_progress(run: Planned) -> int:
    """Return when the run's worker last wrote its progress; 0 where it has ended or never began."""
    try:
        return (run_folder(run.job.runs_dir, run.job.spec.run_id) / PROGRESS).stat().st_mtime_ns
    except OSError:
        return 0


def _settled(run: Planned) -> bool:
    return settled(run.job, read_record(run.job.runs_dir, run.job.spec.run_id))
