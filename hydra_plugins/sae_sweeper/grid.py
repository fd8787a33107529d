"""Provide the Hydra sweeper `grid`: the product of all lists, or of several sets of lists, planned before any launch.

It does more than Hydra's own BasicSweeper: it checks every cell first, runs each distinct spec once, leaves impossible
cells out, shows progress, and ends with a table whatever became of single runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.sae_sweeper.launching import LaunchingSweeper
from sweep.jobs.grid import Lists, cells
from sweep.jobs.overrides import key_of


class GridSweeper(LaunchingSweeper):
    """Runs every cell of a grid (`sweep.jobs.grid`).

    Args:
        params, grids, zips, sets: what to combine, see `sweep.jobs.grid.Lists`.
        experiments: the names of several experiments, whose cells make one sweep; none where there is one at most.
    """

    def __init__(
        self,
        params: dict[str, str] | None = None,
        grids: list[dict[str, Any]] | None = None,
        zips: list[str] | None = None,
        sets: list[str] | None = None,
        experiments: list[str] | None = None,
    ):
        super().__init__()
        self._lists = Lists(dict(params or {}), [dict(grid) for grid in grids or [{}]], zips or (), sets or ())
        self._experiments = list(experiments or [])

    def sweep(self, arguments: list[str]) -> Any:
        """Plan and carry out the grid; exit with 1 if a run is not complete or there is none. Hydra calls this."""
        # Imported here: Hydra imports every plugin module at each start, and these bring torch.
        from sweep.plan.plan import make_plan, only_failed
        from sweep.plan.report import print_plan
        from sweep.run.once import preflight
        from sweep.workers.start import launch, launch_folder, workers, write_launch
        from sweep.workers.table import print_table

        assert self.config is not None and self.launcher is not None
        folder = launch_folder(self.config)
        plan = make_plan(self._cells(arguments), folder.name)
        if self.config.launch.failed_of is not None:
            plan = only_failed(plan, Path(self.config.runs_dir).expanduser(), self.config.launch.failed_of)
        if self.config.plan:
            print_plan(plan, workers(self.config, plan.todo))
            return None
        for job in _one_per_lm_and_text([run.job for run in plan.todo]):
            preflight(job)
        why: dict[str, str] = {}
        if plan.todo:
            write_launch(folder, plan.runs, plan.left_out)
            OmegaConf.save(self.config, folder / "multirun.yaml")
            why = launch(plan.todo, self.launcher, self.config)
        if print_table(plan.runs, plan.left_out, why, notes=plan.notes) or not plan.runs:
            raise SystemExit(1)
        return None

    def _cells(self, arguments: list[str]) -> Iterator[tuple[list[str], DictConfig]]:
        """Yield (overrides that distinguish the cell, composed config) of every cell of every experiment asked for."""
        assert self.hydra_context is not None and self.config is not None
        loader = self.hydra_context.config_loader
        if not self._experiments:
            yield from cells(self.config, self._lists, arguments, loader)
        for name in self._experiments:
            own = [argument if key_of(argument) != "experiment" else f"experiment={name}" for argument in arguments]
            master = self._composed(own)
            settings = cast(dict[str, Any], OmegaConf.to_container(master.hydra.sweeper, resolve=True))
            lists = self._lists._replace(params=settings["params"] or {}, grids=settings["grids"] or [{}])
            for overrides, cell in cells(master, lists, own, loader):
                yield [f"experiment={name}", *overrides], cell

    def _composed(self, arguments: list[str]) -> DictConfig:
        """Compose this sweeper's own config anew for another experiment; that of a search lacks `experiments`."""
        assert self.hydra_context is not None and self.config is not None
        overrides = [*cast(list[str], OmegaConf.to_container(self.config.hydra.overrides.hydra)), *arguments]
        loader, name = self.hydra_context.config_loader, self.config.hydra.job.config_name
        return loader.load_configuration(name, overrides, RunMode.MULTIRUN)


def _one_per_lm_and_text(jobs: list[Any]) -> list[Any]:
    """Return one job for each activation entry: jobs that differ only in the SAE need one check."""
    return list({getattr(job.spec, "activations", None): job for job in jobs}.values())
