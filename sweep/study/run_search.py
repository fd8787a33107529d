"""From the sweeper's config to a search and its end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna import Study
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from sweep.jobs.compose import Composer
from sweep.jobs.job import Job
from sweep.plan.estimate import planned_storage
from sweep.plan.plan import Planned
from sweep.store.sizes import human_size
from sweep.study.cells import Cells, ImpossibleError, check_base
from sweep.study.config import SearchConfig
from sweep.study.controller import controller
from sweep.study.opening import open_study
from sweep.study.report import print_results, write_results
from sweep.study.samplers import GRID
from sweep.study.search import Search, SearchError, search
from sweep.study.space import Space, described, space_from
from sweep.study.storage import exists, quiet
from sweep.study.trials import FINISHED, Asking, combinations
from sweep.workers.start import launch, launch_folder, workers, write_launch

_CORNERS = 64  # at most so many are looked at


def run_search(
    config: SearchConfig,
    params: Mapping[str, Any],
    arguments: Sequence[str],
    loader: ConfigLoader,
    launcher: Launcher,
    master: DictConfig,
) -> None:
    """Search until the study has the trials asked for; then, whatever became of it, leave its CSVs and a table.

    Raises:
        ValueError: a setting, the space or the storage is wrong; nothing was launched.
        SearchError, StorageError: the search ended early.
    """
    quiet()
    space = space_from(params, arguments, loader)
    if config.sampler == GRID:
        next(combinations(space))  # an interval has none
    compose = Composer(loader, master)
    base = compose(space.fixed)
    check_base(config, space, base)
    folder = launch_folder(master)
    cells = Cells(config, space, compose, folder.name)
    _check_settings(cells, space)
    if master.get("plan"):
        print_search(config, cells, base)
        return
    study = open_study(config, space, base)
    with controller(Path(base.runs_dir).expanduser()) as own:
        asking = Asking(study, config, space, own)
        started: dict[str, Planned] = {}

        def start(runs: Sequence[Planned], shown: int, total: int | None) -> dict[str, str]:
            started.update({run.job.spec.run_id: run for run in runs})
            write_launch(folder, list(started.values()), [], _about(config))
            return launch(runs, launcher, master, shown, total)

        to_do = Search(asking, cells, start, config.batch or _batch(config, master))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(master, folder / "multirun.yaml")
        try:
            search(to_do)
        finally:
            _leave_results(to_do)
    _check_end(config, study)


def _batch(config: SearchConfig, master: DictConfig) -> int:
    """A trial for each worker, but no more at a time than a quarter of them all: a search learns from those before."""
    return min(workers(master).count, max(1, (config.n_trials or 1 << 30) // 4))


def _about(config: SearchConfig) -> dict[str, Any]:
    return {"name": config.study_name, "n_trials": config.n_trials, "sampler": config.sampler}


def _leave_results(to_do: Search) -> None:
    trials = to_do.asking.study.get_trials(deepcopy=False)
    if any(trial.state in FINISHED for trial in trials):
        write_results(to_do.folder, trials, list(to_do.asking.space.distributions), to_do.asking.config)
    print_results(to_do)


def _check_settings(cells: Cells, space: Space) -> None:
    """Find a wrong setting, whatever is drawn, before anything is. Raises ValueError."""
    with suppress(ImpossibleError):
        cells.planned(next(_corners(space)))


def _check_end(config: SearchConfig, study: Study) -> None:
    """Raise SearchError where the study has not what was asked for: a grid's failed runs, others' unknown fate."""
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
            f"{finished} of {config.n_trials} trials complete: other run stores' controllers have the rest"
        )


def print_search(config: SearchConfig, cells: Cells, base: DictConfig) -> None:
    """What a search would do; nothing is trained, and no study is made."""
    space = cells.space
    print(f"study {config.study_name} in {config.storage or 'memory'}, sampler {config.sampler}, seed {config.seed}")
    print(f"objectives: {', '.join(f'{name} ({way})' for name, way in config.objectives.items())}")
    for name, distribution in space.distributions.items():
        print(f"  {name}={described(distribution)}")
    if space.fixed:
        print(f"  fixed: {' '.join(space.fixed)}")
    complete = running = 0
    if config.storage is not None and exists(config.storage):
        trials = open_study(config, space, base).get_trials(deepcopy=False)
        complete = sum(trial.state in FINISHED for trial in trials)
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
    target = config.n_trials or sum(1 for _ in combinations(space))
    print(f"{target} trials asked for, {complete} complete, {running} running, {max(0, target - complete)} to do")
    sizes, left_out = [], 0
    for params in itertools.islice(_corners(space), _CORNERS):
        try:
            job = cells.planned(params).job
        except ImpossibleError:
            left_out += 1
            continue
        if isinstance(job, Job):
            sizes.append((planned_storage(job).artifact_bytes, job.title))
    if sizes:
        (least, smallest), (most, largest) = min(sizes), max(sizes)
        print(f"stored in the space's corners: {human_size(least)} ({smallest}) to {human_size(most)} ({largest})")
    if left_out:
        print(f"{left_out} of {left_out + len(sizes)} corners looked at are impossible")


def _corners(space: Space) -> Iterator[dict[str, Any]]:
    """The combinations of every parameter's extremes, and of all choices."""
    names = list(space.distributions)
    ends = [
        d.choices if isinstance(d, CategoricalDistribution) else (d.low, d.high)  # pyright: ignore[reportAttributeAccessIssue]
        for d in space.distributions.values()
    ]
    for values in itertools.product(*ends):
        yield dict(zip(names, values, strict=True))
