"""The number of workers that a launcher starts and of CPU threads that each may use, so that they share the CPUs."""

from __future__ import annotations

import copy
import os
from typing import NamedTuple

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, flag_override


class Workers(NamedTuple):
    """The workers that a launcher starts."""

    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    threads: int | None  # CPU threads of each worker; None leaves the number to torch


def workers_of(launcher: DictConfig, threads: int | None, asked: int | None = None) -> Workers:
    """Return the workers that a launcher's config asks for.

    The kind of launcher is told by the keys of its config and not by its name.

    Args:
        launcher: `hydra.launcher` of the composed config. It has `n_jobs` (joblib), `cpus_per_task` with
            `array_parallelism` (Slurm) or without it (this machine), or `ray.remote.num_cpus` (Ray); a launcher with
            none of these keys starts one worker.
        threads: the CPU threads of each worker that the user asked for. If it is None, the workers of one machine share
            its CPUs, and a scheduler's worker gets the CPUs that the scheduler gives it.
        asked: the number of workers that the user asked for; it wins over the launcher's config.

    Raises:
        ValueError: a count is below 1, or it is missing and only the user can know it; the message names the key.
    """
    if asked is not None and _whole("launch.workers", asked) < 1:
        raise ValueError(f"launch.workers={asked} must be at least 1")
    if "n_jobs" in launcher:
        count, given = asked or _joblib_count(launcher.n_jobs), None
    elif "cpus_per_task" in launcher:
        count, given = _submitit(launcher, asked)
    elif "ray" in launcher:
        count, given = _ray(launcher.ray, asked)
    else:
        return Workers(asked or 1, threads)
    return Workers(count, threads or given or max(1, usable_cpus() // count))


def with_asked_workers(config: DictConfig) -> DictConfig:
    """Return `config` with launch.workers, if it is set, in place of the launcher's own limit on workers at a time."""
    asked = OmegaConf.select(config, "launch.workers")
    limit = next((key for key in ("n_jobs", "array_parallelism") if key in config.hydra.launcher), None)
    if asked is None or limit is None:
        return config
    changed = copy.deepcopy(config)
    # The cache holds the time stamp in the name of the launch's folder, which must stay the same.
    OmegaConf.copy_cache(from_config=config, to_config=changed)
    with flag_override(changed, "readonly", False):
        changed.hydra.launcher[limit] = asked
    return changed


def limit_joblib_processes(launcher: Launcher, count: int, apart: bool) -> None:
    """Let a joblib launcher start at most `count` processes; leave other launchers as they are.

    With one process, joblib works in the present one; a second process would load everything once more.

    Args:
        apart: work in a process of its own even if `count` is 1, so that a run that kills its worker does not kill
            the present process. joblib only does so for two processes or more; the second one stays idle.
    """
    if isinstance(settings := getattr(launcher, "joblib", None), dict):
        settings["n_jobs"] = max(count, 2) if apart else count


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use.

    It is limited by the process's affinity, its container's quota and its Slurm task.
    """
    from joblib import cpu_count  # imported here because it takes 0.1 s, and not every process needs it

    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cpu_count(), int(slurm)) if slurm.isdigit() and int(slurm) > 0 else cpu_count()


def visible_gpus(device: str = "auto", at_most: int | None = None) -> int:
    """Return the number of this machine's GPUs that runs may use if the config says `device`, at most `at_most`."""
    if device == "cpu":
        return 0
    import torch  # imported here because it takes 2 s, and not every preset asks for GPUs

    found = torch.cuda.device_count()
    meant = 1 if device.startswith("cuda:") else found
    return min(found, meant, found if at_most is None else at_most)


def default_worker_count(device: str = "auto") -> int:
    """Return the number of workers for this machine: one per GPU, or without a GPU one per usable CPU."""
    return visible_gpus(device) or usable_cpus()


def register_resolvers() -> None:
    """Let configs say `${workers:${device}}` and `${gpus:${device}}`."""
    OmegaConf.register_new_resolver("workers", default_worker_count, replace=True)
    OmegaConf.register_new_resolver("gpus", visible_gpus, replace=True)


def _joblib_count(n_jobs: int | None) -> int:
    """Return the number of workers that joblib's `n_jobs` means: -1 is all CPUs, -2 all but one."""
    if n_jobs is None:
        return 1
    if _whole("hydra.launcher.n_jobs", n_jobs) == 0:
        raise ValueError("hydra.launcher.n_jobs=0 must be at least 1, or -1 for one worker on every CPU")
    return n_jobs if n_jobs > 0 else max(1, usable_cpus() + 1 + n_jobs)


def _submitit(launcher: DictConfig, asked: int | None) -> tuple[int, int]:
    """Return (workers, CPUs of each) for a submitit launcher, on Slurm or on this machine."""
    cpus = _positive("hydra.launcher.cpus_per_task", launcher.cpus_per_task, 1)
    if "array_parallelism" in launcher:
        return asked or _positive("hydra.launcher.array_parallelism", launcher.array_parallelism, 1), cpus
    return asked or launcher.get("gpus_per_node") or max(1, usable_cpus() // cpus), cpus


def _ray(ray: DictConfig, asked: int | None) -> tuple[int, int]:
    """Return (workers, CPUs of each) for a Ray launcher; its settings say how many fit on this machine."""
    init, remote = ray.get("init") or {}, ray.get("remote") or {}
    cpus = _positive("hydra.launcher.ray.remote.num_cpus", remote.get("num_cpus"), 1)
    if asked is None and init.get("address") is not None:
        raise ValueError(
            "launch.workers must be given with hydra.launcher.ray.init.address: "
            "it says how many workers to start on that cluster"
        )
    fitting = (init.get("num_cpus") or usable_cpus()) // cpus
    if gpus := remote.get("num_gpus"):
        fitting = min(fitting, int((init.get("num_gpus") or visible_gpus()) / gpus))
    return asked or max(1, fitting), cpus


def _positive(key: str, value: int | None, default: int) -> int:
    """Return `value`, or `default` for None. Raise ValueError unless it is a whole number of at least 1."""
    if value is None:
        return default
    if _whole(key, value) < 1:
        raise ValueError(f"{key}={value} must be at least 1")
    return value


def _whole(key: str, value: object) -> int:
    """Return `value`. Raise ValueError unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key}={value} must be a whole number")
    return value
