"""The front of a search: the runs that no other run betters in all of its objectives (the Pareto set)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from sweep.study.config import SearchConfig
from sweep.study.objectives import STORED, Direction


def aims_of(config: SearchConfig) -> dict[str, Direction]:
    """Return the objectives that the front is of, with their directions; that of one objective is against size."""
    own = config.directions
    return own if len(own) > 1 else {STORED: "minimize", **own}


def pareto_set(trials: Sequence[FrozenTrial], config: SearchConfig) -> list[FrozenTrial]:
    """Return a trial of each complete run that no other run betters, the smallest SAE first.

    One run betters another if it is as good in every objective and better in one. Where there is a budget, only runs of
    at most so many bytes count.
    """
    aims, most = aims_of(config), config.budget_bytes or math.inf
    runs: dict[str, FrozenTrial] = {}
    for trial in trials:
        marks, complete = trial.user_attrs, trial.state == TrialState.COMPLETE
        if complete and {"run_id", STORED, *aims} <= marks.keys() and marks[STORED] <= most:
            runs.setdefault(marks["run_id"], trial)
    found = list(runs.values())
    signs = [1.0 if way == "minimize" else -1.0 for way in aims.values()]
    costs = np.array([[trial.user_attrs[name] for name in aims] for trial in found], dtype=float).reshape(-1, len(aims))
    kept = [trial for trial, cost in zip(found, costs * signs, strict=True) if not _is_bettered(cost, costs * signs)]
    return sorted(kept, key=lambda trial: (trial.user_attrs[STORED], trial.number))


def _is_bettered(cost: np.ndarray, costs: np.ndarray) -> bool:
    """Tell whether one of costs (runs, objectives) is nowhere larger than cost (objectives,), and smaller somewhere."""
    return bool(np.any(np.all(costs <= cost, axis=1) & np.any(costs < cost, axis=1)))
