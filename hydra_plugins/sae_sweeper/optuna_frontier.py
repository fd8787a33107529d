"""Provide the Hydra sweeper `optuna_frontier`: an Optuna study of what SAEs store and preserve, see `sweep.study`."""

from __future__ import annotations

from typing import Any

from hydra_plugins.sae_sweeper.launching import LaunchingSweeper


class OptunaFrontierSweeper(LaunchingSweeper):
    """Searches instead of running a grid. All arguments but `params` are those of `sweep.study.config.SearchConfig`.

    Args:
        params: {key: the values to search, as on the command line}; a key of the command line wins over its entry.
    """

    def __init__(
        self,
        n_trials: int | None = 20,
        sampler: str = "tpe",
        seed: int = 0,
        storage: str | None = None,
        study_name: str = "frontier",
        budget_bytes: int | None = None,
        objectives: list[str] | None = None,
        inference: str = "encoder",
        pruner: str | None = None,
        prune_share: float = 0.25,
        prune_margin: float = 0.1,
        prune_after: float = 0.25,
        batch: int | None = None,
        first: list[str] | None = None,
        params: dict[str, Any] | None = None,
    ):
        self._given = {key: value for key, value in locals().items() if key not in ("self", "params", "__class__")}
        self._params = dict(params or {})
        super().__init__()

    def sweep(self, arguments: list[str]) -> Any:
        """Carry out the search; Hydra calls this."""
        # Imported here: Hydra imports every plugin module at each start, and these bring torch and Optuna.
        from sweep.study.config import search_config
        from sweep.study.run_search import run_search

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        loader = self.hydra_context.config_loader
        run_search(search_config(self._given), self._params, arguments, loader, self.launcher, self.config)
