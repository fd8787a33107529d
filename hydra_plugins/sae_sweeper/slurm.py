"""Provide a Hydra launcher over submitit's Slurm executor that asks `squeue` what became of a worker.

submitit itself asks `sacct`, in the end every ten minutes. On a cluster without accounting it would wait for ever for a
worker that was cancelled or killed, and warn at every look. It also raises an exception for the first lost worker while
others are still at work; here the exception comes when they have ended, so that no more than the workers asked for are
at work at a time.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):
    """Launches as submitit's launcher does, but watches jobs by `squeue`; takes that launcher's config keys."""

    def __init__(self, **params: Any) -> None:
        self._params = params
        self._launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make submitit's own launcher; Hydra calls this."""
        # Imported here: Hydra imports every plugin module at each start, and this one is not always installed.
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit

        self._launcher = Submitit(**self._params)
        self._launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Start the workers and return what they return; an interrupt cancels them, a killed controller does not.

        Raises:
            ValueError: there is no Slurm here, or it refuses the workers.
            Exception: a worker was lost; it is the first one's exception, and by then all workers have ended.
        """
        import submitit
        from submitit.core.utils import FailedJobError

        from sweep.workers.squeue import SqueueWatcher

        assert self._launcher is not None
        if shutil.which("sbatch") is None:
            raise ValueError(
                "hydra/launcher=submitit_slurm: this machine has no sbatch; start the sweep on a node of the cluster"
            )
        logging.getLogger("submitit").setLevel(logging.ERROR)
        submitit.SlurmJob.watcher = watcher = SqueueWatcher()
        try:
            return self._launcher.launch(job_overrides, initial_job_idx)
        except Exception as error:
            if isinstance(error, FailedJobError) and not watcher.jobs:
                raise ValueError(f"sbatch refused the workers: {_last_line(error)}") from None
            watcher.wait()  # the others are still at work
            raise
        except KeyboardInterrupt:
            watcher.cancel()
            raise


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].rsplit("error: ", 1)[-1]
