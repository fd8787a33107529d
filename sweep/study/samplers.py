"""Who draws the next trial, and who ends one early, by the names that a user gives.

A sampler is made anew for each draw, seeded by (seed, number of the draw) alone. What it draws then follows from that
and from the study's finished trials, and a study that was killed and resumed draws as if it had not been.
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

GRID = "grid"  # every combination in turn: nothing is left to a sampler
POPULATION = 20  # of NSGA-II, whose first generation is random; Optuna's own 50 outlasts most searches here
RUNGS = 10  # a trial is compared with others at each tenth of its training
PATIENCE = 5  # impossible trials in a row after which the next is drawn at random

# Every choice that Optuna has changed between versions is named here.
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


def sampler_for(name: str, seed: int, draw: int, impossible: int = 0) -> BaseSampler:
    """The sampler of one draw.

    Args:
        impossible: how many draws before it, in a row, could not be trained. Samplers don't learn from those, and
            Gaussian processes would propose the same again and again: after `PATIENCE` of them chance does.
    """
    own = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])
    return SAMPLERS["random" if name == GRID or impossible >= PATIENCE else name](own)


def pruner_named(name: str | None) -> BasePruner:
    return NopPruner() if name is None else PRUNERS[name]()
