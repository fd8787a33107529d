"""Hydra launcher over submitit's Slurm executor that asks `squeue` what became of a worker.

submitit asks `sacct`, at last every ten minutes: on a cluster without accounting it would wait for ever for a worker
that was cancelled or killed, and warn at every look.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):
    """submitit's launcher with another watcher. Its arguments are those of `hydra/launcher=submitit_slurm`."""

    def __init__(self, **params: Any) -> None:
        self._params = params
        self._launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # Imported here: Hydra imports every plugin module at each start, and this one is not always installed.
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit

        self._launcher = Submitit(**self._params)
        self._launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import submitit

        from sweep.squeue import SqueueWatcher

        assert self._launcher is not None
        submitit.SlurmJob.watcher = SqueueWatcher()
        logging.getLogger("submitit").setLevel(logging.ERROR)
        return self._launcher.launch(job_overrides, initial_job_idx)
