"""Set up a Hydra sweeper with its config and the launcher that starts its workers."""

from __future__ import annotations

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sweep.machine.workers import with_asked_workers


class LaunchingSweeper(Sweeper):
    """A sweeper that has a launcher. Subclasses define `sweep`, which says what is launched."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the sweep's config with launch.workers applied to it, and make the launcher; Hydra calls this."""
        self.config, self.hydra_context = with_asked_workers(config), hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=self.config
        )
