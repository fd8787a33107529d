"""Build the run that has the values of a trial. A cell is one combination of values of the config's keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig

from sae_core.arms import CellError
from sae_core.inference import ENCODER, inference_name
from sweep.jobs.job import Job
from sweep.lm.find import ModelNotHereError
from sweep.plan.merging import ONE_VALUE
from sweep.plan.plan import Planned, check_budget, make_plan
from sweep.study.config import KEY, SearchConfig
from sweep.study.objectives import check_measured
from sweep.study.space import Space, SpaceError, described


class ImpossibleError(ValueError):
    """The values drawn make no run that can be trained, or one whose file is too large."""


class Cells(NamedTuple):
    """Builds the runs that have the values drawn for trials."""

    config: SearchConfig
    space: Space
    compose: Callable[[list[str]], DictConfig]  # overrides -> the config of that cell
    launch: str  # the launch's name

    def planned(self, params: Mapping[str, Any]) -> Planned:
        """Return the run that has the values `params`.

        Raises:
            ImpossibleError: no run can have these values, or its file would be larger than the budget.
            ValueError, HydraException: a setting is wrong, whichever values are drawn.
        """
        overrides = self.space.overrides(params)
        cfg = self.compose(overrides)
        try:
            plan = make_plan([(overrides, cfg)], self.launch)
            for run in plan.runs:
                if isinstance(run.job, Job):
                    for name in self.config.directions:
                        check_measured(name, run.job)
                check_budget(run.job, self.config.budget_bytes)
        except CellError as error:
            raise ImpossibleError(str(error)) from None
        except ModelNotHereError as error:
            if not any(name.split(".")[0] == "model" for name in self.space.distributions):
                raise
            raise ImpossibleError(str(error)) from None
        except ValueError as error:
            named = re.match(r"([\w.]+)=", str(error))
            if named is None or named[1] not in self.space.distributions:
                raise
            raise ImpossibleError(str(error)) from None
        if plan.left_out:
            raise ImpossibleError(plan.left_out[0].reason)
        return plan.runs[0]


def check_base(config: SearchConfig, space: Space, cfg: DictConfig) -> None:
    """Raise ValueError if no trial at all can be measured in what the search looks for.

    So it does where a searched setting makes no other run.
    """
    for name, distribution in space.distributions.items():
        if any(name == key or name.startswith(f"{key}.") for key in ONE_VALUE):
            raise SpaceError(f"{name}={described(distribution)} cannot be searched, as it changes no result")
    if cfg.get("recovery") is not None:
        raise ValueError("recovery=... asks for a synthetic experiment, which has no SAE of an LM to search")
    if config.inference == ENCODER or {"eval", "eval.inference"} & set(space.distributions):
        return
    measured = {inference_name(str(name)) for name in cfg.eval.get("inference") or []}
    if config.inference not in measured:
        raise ValueError(f"{KEY}inference={config.inference} is not measured: add eval.inference=[{config.inference}]")
