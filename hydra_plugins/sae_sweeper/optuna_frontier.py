"""Hydra sweeper `optuna_frontier`: an Optuna study over stored bytes and CE recovered; see `sweep.study`."""

from __future__ import annotations

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sweep.machine.workers import heed


class OptunaFrontierSweeper(Sweeper):
    """The command line wins over `params`, by key. The arguments are those of `sweep.study.config.SearchConfig`.

    Args:
        params: {key: what to search it in, as on the command line}.
    """

    def __init__(
        self,
        n_trials: int | None = 20,
        sampler: str = "tpe",
        seed: int = 0,
        storage: str | None = None,
        study_name: str = "frontier",
        budget_bytes: int | None = None,
        inference: str = "encoder",
        pruner: str | None = None,
        batch: int | None = None,
        params: dict[str, Any] | None = None,
    ):
        self._given = {key: value for key, value in locals().items() if key not in ("self", "params", "__class__")}
        self._params = dict(params or {})
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        config = heed(config)
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        # Imported here: Hydra imports every plugin module at each start, and these bring torch and Optuna.
        from sweep.study.config import search_config
        from sweep.study.run_search import run_search

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        loader = self.hydra_context.config_loader
        run_search(search_config(self._given), self._params, arguments, loader, self.launcher, self.config)
