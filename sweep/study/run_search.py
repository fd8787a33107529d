"""Run a search from the sweeper's config to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna import Study
from optuna.trial import TrialState

from sweep.jobs.compose import Composer
from sweep.plan.plan import Planned
from sweep.study.cells import Cells, ImpossibleError, check_base
from sweep.study.config import SearchConfig
from sweep.study.controller import controller
from sweep.study.opening import open_study
from sweep.study.preview import corners, print_search
from sweep.study.report import print_results, write_results
from sweep.study.samplers import GRID
from sweep.study.search import Launch, Search, SearchError, search
from sweep.study.space import cell_of, space_from
from sweep.study.storage import StorageError, quiet
from sweep.study.trials import FINISHED, Asking, combinations
from sweep.workers.start import launch, launch_folder, workers, write_launch


def run_search(
    config: SearchConfig,
    params: Mapping[str, Any],
    arguments: Sequence[str],
    loader: ConfigLoader,
    launcher: Launcher,
    master: DictConfig,
) -> None:
    """Search until the study has the trials asked for; write its CSV files and print its table, however it ends.

    Args:
        params: {key: the values to search} of the sweeper's config.
        arguments: the command line's overrides.
        master: the sweeper's own config, with its `hydra` node.

    Raises:
        ValueError: a setting, the space or the storage is wrong; nothing was launched.
        SearchError, StorageError: the search ended early.
    """
    quiet()
    space = space_from(params, arguments, loader)
    if config.sampler == GRID:
        next(combinations(space))  # raises SpaceError for an interval
    for cell in config.first:
        cell_of(space, cell)  # raises SpaceError for one that cannot be
    compose = Composer(loader, master)
    base = compose(space.fixed)
    check_base(config, space, base)
    cells = Cells(config, space, compose, launch_folder(master).name)
    _check_settings(cells)
    if master.get("plan"):
        print_search(config, cells, base)
        return
    study = open_study(config, space, base)
    _search_and_report(study, cells, launcher, master, Path(base.runs_dir).expanduser())
    _check_end(config, study)


def _search_and_report(study: Study, cells: Cells, launcher: Launcher, master: DictConfig, runs_dir: Path) -> None:
    """Search as a new controller; however the search ends, write its results and print them."""
    config, folder = cells.config, launch_folder(master)
    with controller(runs_dir) as own:
        asking = Asking(study, config, cells.space, own)
        to_do = Search(asking, cells, _launch(config, launcher, master), config.batch or _batch(config, master))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(master, folder / "multirun.yaml")
        try:
            _search_and_leave_results(to_do)
        except StorageError as error:
            raise StorageError(f"{error}; once it can be used again, the same command goes on from here") from None


def _launch(config: SearchConfig, launcher: Launcher, master: DictConfig) -> Launch:
    """Return the function that trains a batch of runs and adds them to the launch's list of runs."""
    started: dict[str, Planned] = {}
    about = {"name": config.study_name, "n_trials": config.n_trials, "sampler": config.sampler}

    def start(runs: Sequence[Planned], shown: int, total: int | None) -> dict[str, str]:
        started.update({run.job.spec.run_id: run for run in runs})
        write_launch(launch_folder(master), list(started.values()), [], about)
        return launch(runs, launcher, master, shown, total)

    return start


def _batch(config: SearchConfig, master: DictConfig) -> int:
    """Return how many trials to ask for at a time: one for each worker, but at most a quarter of them all.

    A search learns from the trials before, so too many at a time would learn too little.
    """
    return min(workers(master).count, max(1, (config.n_trials or 1 << 30) // 4))


def _search_and_leave_results(to_do: Search) -> None:
    try:
        search(to_do)
    finally:
        _leave_results(to_do)


def _leave_results(to_do: Search) -> None:
    trials = to_do.asking.study.get_trials(deepcopy=False)
    if any(trial.state in FINISHED for trial in trials):
        write_results(to_do.folder, trials, list(to_do.asking.space.distributions), to_do.asking.config)
    print_results(to_do)


def _check_settings(cells: Cells) -> None:
    """Raise ValueError if a setting is wrong whatever is drawn, before anything is drawn."""
    with suppress(ImpossibleError):
        cells.planned(next(corners(cells.space)))


def _check_end(config: SearchConfig, study: Study) -> None:
    """Raise SearchError if a run of a grid failed, or controllers of other run stores still have trials to finish."""
    trials = study.get_trials(deepcopy=False)
    if config.sampler == GRID:
        last = {tuple(sorted(trial.params.items())): trial for trial in trials}
        bad = sum(t.state == TrialState.FAIL and "error" in t.user_attrs for t in last.values())
        if bad:
            raise SearchError(f"{bad} combination(s) failed; the same command tries them again")
        return
    finished = sum(trial.state in FINISHED for trial in trials)
    if finished < (config.n_trials or 0):
        raise SearchError(
            f"{finished} of {config.n_trials} trials complete: controllers of other run stores have the rest"
        )
