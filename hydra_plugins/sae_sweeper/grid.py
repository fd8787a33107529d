"""Provide the Hydra sweeper `grid`: the product of all lists, or of several sets of lists, planned before any launch.

It does more than Hydra's own BasicSweeper: it checks every cell first, runs each distinct spec once, leaves impossible
cells out, shows progress, and ends with a table whatever became of single runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.sae_sweeper.launching import LaunchingSweeper
from sweep.jobs.compose import Composer


class GridSweeper(LaunchingSweeper):
    """Runs every cell of a grid. The command line wins over what an experiment file lists: see `selected`.

    Args:
        params: {key: comma-separated choices}; the grid has every combination of them.
        grids: several such sets, each combined with `params`; their cells make one sweep.
    """

    def __init__(self, params: dict[str, str] | None = None, grids: list[dict[str, Any]] | None = None):
        super().__init__()
        self._params = dict(params or {})
        self._grids = [dict(grid) for grid in grids or [{}]]

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
        """Yield (overrides that distinguish the cell, composed config) of every cell, in the order of the lists."""
        assert self.hydra_context is not None and self.config is not None
        loader = self.hydra_context.config_loader
        compose = Composer(loader, self.config)
        choices = {argument: choices_of(argument, loader) for argument in arguments}
        given = {_key(argument): {choice.split("=", 1)[-1] for choice in choices[argument]} for argument in arguments}
        for grid, chosen in selected(self._grids, given):
            listed = {**self._params, **grid}
            params = [f"{key}={value}" for key, value in listed.items() if key not in given or key in chosen]
            others = [choices[argument] for argument in arguments if _key(argument) not in chosen]
            fixed = {values[0] for values in others if len(values) == 1}
            for combination in itertools.product(*(choices_of(param, loader) for param in params), *others):
                apart = [override for override in combination if override not in fixed]
                yield apart or list(combination), compose(combination)


def selected(grids: list[dict[str, Any]], given: dict[str, set[str]]) -> list[tuple[dict[str, Any], set[str]]]:
    """Return the grids to run, each with its keys that the command line selected from.

    If every value that the command line gives a key is listed by some grid, the key selects: each grid keeps the given
    values that it lists, and a grid that lists none of them is dropped. Otherwise the given values replace the listed.
    So `model=embedded` picks that LM's grid with its layers and sizes, and `model=local` runs every grid on the user's
    own. Keys select in the order in which grids list them.

    Args:
        grids: {key: comma-separated choices} of each grid.
        given: the values that the command line gives, by key.
    """
    left: list[tuple[dict[str, Any], set[str]]] = [(grid, set()) for grid in grids]
    order = list(dict.fromkeys(key for grid in grids for key in grid))
    for key in sorted(given.keys() & set(order), key=order.index):
        listed = [choices_of(f"{key}={grid[key]}") if key in grid else None for grid, _ in left]
        known = {choice.split("=", 1)[1] for choices in listed for choice in choices or []}
        if not given[key] <= known:
            continue
        kept: list[tuple[dict[str, Any], set[str]]] = []
        for (grid, chosen), choices in zip(left, listed, strict=True):
            values = [choice.split("=", 1)[1] for choice in choices or []]
            values = [value for value in values if value in given[key]]
            if choices is None:
                kept.append((grid, chosen))
            elif values:
                kept.append(({**grid, key: ",".join(values)}, {*chosen, key}))
        left = kept
    return left


def choices_of(argument: str, loader: ConfigLoader | None = None) -> list[str]:
    """Return `key=a,b` as the overrides `key=a` and `key=b`, and anything else as it is.

    Args:
        loader: needed for `key=glob(*)`.
    """
    (override,) = OverridesParser.create(config_loader=loader).parse_overrides([argument])
    if not override.is_sweep_override():
        return [argument]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _key(argument: str) -> str:
    return argument.split("=", 1)[0].lstrip("+~")


def _one_per_lm_and_text(jobs: list[Any]) -> list[Any]:
    """Return one job for each activation entry: jobs that differ only in the SAE need one check."""
    return list({getattr(job.spec, "activations", None): job for job in jobs}.values())
