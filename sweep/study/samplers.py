"""Make the sampler that draws the next trial, and the pruner that ends one early, by the names that a user gives.

A sampler is made anew for each draw, seeded by (seed, number of the draw) alone. What it draws then follows from these
two and from the study's finished trials, so a study that was killed and resumed draws as an undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

GRID = "grid"  # every combination in turn, without a sampler
# Trials in a generation of NSGA-II. The first generation is drawn at random, and with Optuna's default of 50 most
# searches here would end within it.
POPULATION = 20
FRONTIER = "frontier"  # our own pruner, for two objectives (`sweep.study.front_rule`)
RUNGS = 10  # a trial is compared with others at each tenth of its training
PATIENCE = 5  # after so many trials in a row that trained nothing, the next is drawn at random

# Each option that Optuna has changed between versions is given explicitly.
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(
        seed=seed, n_startup_trials=10, multivariate=True, constant_liar=True, warn_independent_sampling=False
    ),
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=POPULATION),
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=10, warn_independent_sampling=False),
    "random": lambda seed: RandomSampler(seed=seed),
}

# Steps are percent of a trial's training, so that trials of different length compare.
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "median": lambda: MedianPruner(n_startup_trials=5),
    "percentile": lambda: PercentilePruner(25.0, n_startup_trials=5),  # the best quarter goes on
    "hyperband": lambda: HyperbandPruner(min_resource=100 // RUNGS, max_resource=100, reduction_factor=3),
    "successive_halving": lambda: SuccessiveHalvingPruner(min_resource=100 // RUNGS, reduction_factor=3),
}


def sampler_for(name: str, seed: int, draw: int, in_vain: int = 0) -> BaseSampler:
    """Return the sampler of one draw.

    Args:
        name: a key of `SAMPLERS`, or `grid`.
        draw: the number of the draw, counted from 0.
        in_vain: how many draws just before it trained nothing, as they were impossible or had been dropped before.
            Gaussian processes don't learn from those and would propose the same again and again; so after `PATIENCE` of
            them the draw is random.
    """
    own = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])
    return SAMPLERS["random" if name == GRID or in_vain >= PATIENCE else name](own)


def pruner_named(name: str | None) -> BasePruner:
    """Return Optuna's pruner of that name; one that ends nothing where there is none, or one of our own."""
    return PRUNERS[name]() if name in PRUNERS else NopPruner()
