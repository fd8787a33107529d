"""Print what a search would do (`plan=true`): its space, its trials so far, and the sizes of the SAEs it may train."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from sweep.jobs.job import Job
from sweep.plan.footprint import planned_storage
from sweep.store.human_size import human_size
from sweep.study.cells import Cells, ImpossibleError
from sweep.study.config import SearchConfig
from sweep.study.opening import open_study
from sweep.study.space import Space, described
from sweep.study.storage import exists
from sweep.study.trials import FINISHED, combinations

_MOST_CORNERS = 64  # corners of the space that are looked at, at most


def print_search(config: SearchConfig, cells: Cells, base: DictConfig) -> None:
    """Print what the search would do. Nothing is trained, and no study is made.

    Args:
        base: the config without any drawn value.
    """
    space = cells.space
    print(f"study {config.study_name} in {config.storage or 'memory'}, sampler {config.sampler}, seed {config.seed}")
    print(f"objectives: {', '.join(f'{way} {name}' for name, way in config.directions.items())}")
    if config.pruner is not None:
        print(f"pruner: {config.pruner}")
    print("searched:")
    for name, distribution in space.distributions.items():
        print(f"  {name}={described(distribution)}")
    fixed = [override for override in space.fixed if not override.startswith("plan=")]
    if fixed:
        print(f"fixed: {' '.join(fixed)}")
    print(_trials_line(config, space, base))
    for line in _size_lines(cells):
        print(line)


def _trials_line(config: SearchConfig, space: Space, base: DictConfig) -> str:
    complete = running = 0
    if config.storage is not None and exists(config.storage):
        trials = open_study(config, space, base).get_trials(deepcopy=False)
        complete = sum(trial.state in FINISHED for trial in trials)
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
    target = config.n_trials or sum(1 for _ in combinations(space))
    return f"{target} trials asked for, {complete} complete, {running} running, {max(0, target - complete)} to do"


def _size_lines(cells: Cells) -> Iterator[str]:
    """Yield a line on what SAEs at the corners of the space (see `corners`) store, and one on impossible corners."""
    sizes: list[tuple[int, str]] = []
    left_out = 0
    for params in itertools.islice(corners(cells.space), _MOST_CORNERS):
        try:
            job = cells.planned(params).job
        except ImpossibleError:
            left_out += 1
            continue
        if isinstance(job, Job):
            sizes.append((planned_storage(job).artifact_bytes, job.title))
    if sizes:
        (least, smallest), (most, largest) = min(sizes), max(sizes)
        yield f"stored at the extremes of the space: {human_size(least)} ({smallest}) to {human_size(most)} ({largest})"
    if left_out:
        yield f"impossible: {left_out} of the {left_out + len(sizes)} extreme combinations looked at"


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Yield the corners of a space: every combination of the two ends of each range and all values of each list."""
    names = list(space.distributions)
    for values in itertools.product(*map(_extremes, space.distributions.values())):
        yield dict(zip(names, values, strict=True))


def _extremes(distribution: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    return distribution.low, distribution.high
