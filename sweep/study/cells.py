"""From the values of a trial to the run that it asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig

from sweep.jobs.job import Job
from sweep.lm.find import ModelNotHereError
from sweep.plan.estimate import planned_storage
from sweep.plan.plan import Planned, make_plan
from sweep.study.config import KEY, SearchConfig
from sweep.study.space import Space


class ImpossibleError(ValueError):
    """The values drawn make no run that can be trained, or one whose file is too large."""


class Cells(NamedTuple):
    """What it takes to make a run of values."""

    config: SearchConfig
    space: Space
    compose: Callable[[list[str]], DictConfig]
    launch: str  # the launch's name

    def planned(self, params: Mapping[str, Any]) -> Planned:
        """The run.

        Raises:
            ImpossibleError: there is none of these values.
            ValueError, HydraException: a setting is wrong, whatever is drawn.
        """
        overrides = self.space.overrides(params)
        cfg = self.compose(overrides)
        try:
            plan = make_plan([(overrides, cfg)], self.launch)
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
        self._check_size(plan.runs[0])
        return plan.runs[0]

    def _check_size(self, run: Planned) -> None:
        budget = self.config.budget_bytes
        if budget is not None and isinstance(run.job, Job):
            size = planned_storage(run.job).artifact_bytes
            if size > budget:
                raise ImpossibleError(f"its file of {size:,} bytes is larger than budget_bytes={budget:,}")


def check_base(config: SearchConfig, space: Space, cfg: DictConfig) -> None:
    """Raise ValueError where no trial at all could have what is searched."""
    if cfg.get("recovery") is not None:
        raise ValueError("recovery=...: a synthetic experiment has no CE recovered to search")
    measured = cfg.eval.get("inference") or []
    searched = {"eval", "eval.inference"} & set(space.distributions)
    if config.inference != "encoder" and not searched:
        from sae_core.inference import inference_name

        if config.inference not in {inference_name(str(name)) for name in measured}:
            raise ValueError(
                f"{KEY}inference={config.inference} is not measured: add eval.inference=[{config.inference}]"
            )
