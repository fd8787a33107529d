"""How many workers a launcher starts, and how many CPU threads each may use, so that they don't fight for the CPUs."""

from __future__ import annotations

import copy
import os
from typing import NamedTuple

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, flag_override


class Workers(NamedTuple):
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    threads: int | None  # CPU threads of each; None leaves it to torch


def workers_of(launcher: DictConfig, threads: int | None, asked: int | None = None) -> Workers:
    """What the launcher's config asks for, read by its keys and not by its name.

    Args:
        launcher: `hydra.launcher` of the composed config: `n_jobs` (joblib), `cpus_per_task` with `array_parallelism`
            (Slurm) or without (this machine), `ray.remote.num_cpus` (Ray); with none of them, one worker.
        threads: of each worker, as the user asked; None shares a machine's CPUs out among its workers, and gives a
            scheduler's worker the CPUs that the scheduler gives it.
        asked: how many workers the user asked for, which wins over the launcher's config.

    Raises:
        ValueError: a count below 1, or one that only the user can know; names the key.
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


def heed(config: DictConfig) -> DictConfig:
    """`config` with the launcher's own limit on workers at a time replaced by launch.workers, where that is set."""
    asked = OmegaConf.select(config, "launch.workers")
    limit = next((key for key in ("n_jobs", "array_parallelism") if key in config.hydra.launcher), None)
    if asked is None or limit is None:
        return config
    heeding = copy.deepcopy(config)
    OmegaConf.copy_cache(from_config=config, to_config=heeding)  # one time stamp for the launch's folder
    with flag_override(heeding, "readonly", False):
        heeding.hydra.launcher[limit] = asked
    return heeding


def no_more_processes_than(launcher: Launcher, count: int) -> None:
    """joblib's single worker is this process itself: another would load everything once more."""
    if isinstance(settings := getattr(launcher, "joblib", None), dict):
        settings["n_jobs"] = count


def usable_cpus() -> int:
    """CPUs that this process may use: those of its affinity, within its container's quota and its Slurm task's."""
    from joblib import cpu_count  # here: it takes 0.1 s to import, at every start of a process that may not need it

    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cpu_count(), int(slurm)) if slurm.isdigit() and int(slurm) > 0 else cpu_count()


def visible_gpus(device: str = "auto", at_most: int | None = None) -> int:
    """GPUs of this machine that runs may be given where the config says `device`."""
    if device == "cpu":
        return 0
    import torch  # here: 2 s, and not every preset asks

    found = torch.cuda.device_count()
    most = 1 if device.startswith("cuda:") else found
    return min(found, most, found if at_most is None else at_most)


def one_for_each(device: str = "auto") -> int:
    """Workers of this machine: one for each GPU, else one for each usable CPU."""
    return visible_gpus(device) or usable_cpus()


def register_resolvers() -> None:
    """Let configs say `${workers:${device}}` and `${gpus:${device}}`."""
    OmegaConf.register_new_resolver("workers", one_for_each, replace=True)
    OmegaConf.register_new_resolver("gpus", visible_gpus, replace=True)


def _joblib_count(n_jobs: int | None) -> int:
    """joblib's rule: -1 is all CPUs, -2 all but one."""
    if n_jobs is None:
        return 1
    if _whole("hydra.launcher.n_jobs", n_jobs) == 0:
        raise ValueError("hydra.launcher.n_jobs=0 must be at least 1, or -1 for one worker on every CPU")
    return n_jobs if n_jobs > 0 else max(1, usable_cpus() + 1 + n_jobs)


def _submitit(launcher: DictConfig, asked: int | None) -> tuple[int, int]:
    cpus = _positive("hydra.launcher.cpus_per_task", launcher.cpus_per_task, 1)
    if "array_parallelism" in launcher:
        return asked or _positive("hydra.launcher.array_parallelism", launcher.array_parallelism, 1), cpus
    return asked or launcher.get("gpus_per_node") or max(1, usable_cpus() // cpus), cpus


def _ray(ray: DictConfig, asked: int | None) -> tuple[int, int]:
    init, remote = ray.get("init") or {}, ray.get("remote") or {}
    cpus = _positive("hydra.launcher.ray.remote.num_cpus", remote.get("num_cpus"), 1)
    if asked is None and init.get("address") is not None:
        raise ValueError("launch.workers must be given with hydra.launcher.ray.init.address: how many of its workers?")
    here = (init.get("num_cpus") or usable_cpus()) // cpus
    if of_each := remote.get("num_gpus"):
        here = min(here, int((init.get("num_gpus") or visible_gpus()) / of_each))
    return asked or max(1, here), cpus


def _positive(key: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if _whole(key, value) < 1:
        raise ValueError(f"{key}={value} must be at least 1")
    return value


def _whole(key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key}={value} must be a whole number")
    return value
