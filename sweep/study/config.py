"""Check what a search is asked to do: the keys of `hydra.sweeper`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from sae_core.inference import ENCODER, inference_name
from sweep.jobs.config_checks import check_types
from sweep.study.objectives import RECOVERED, STORED, Direction, direction, is_foretold
from sweep.study.samplers import FRONTIER, GRID, PRUNERS, SAMPLERS

KEY = "hydra.sweeper."


@dataclass(frozen=True)
class SearchConfig:
    """The settings of a search, checked on construction.

    Args:
        n_trials: complete (or pruned) trials that the study shall have, those of earlier launches included; None means
            every combination, which only `grid` has.
        sampler: a name of `SAMPLERS`, or `grid`.
        seed: the sampler's seed; runs have seeds of their own.
        storage: where the study is kept, see `sweep.study.storage`; None keeps it in memory.
        study_name: the study's name in the storage, and the name of its folder under `studies/`.
        budget_bytes: only SAEs whose file has at most so many bytes are trained; None for any.
        objectives: what is looked for, by the names of `sweep.study.objectives`. None is CE recovered alone with a
            budget, and without one stored bytes and CE recovered.
        inference: the way to read codes (`sae_core.inference`) that CE recovered is taken from.
        pruner: `frontier` for a search of stored bytes and one measure of what is preserved
            (`sweep.study.front_rule`), or a name of `PRUNERS` for a search of such a measure alone; None trains every
            run to its end.
        prune_share, prune_margin, prune_after: of the pruner `frontier`, see `sweep.study.front_rule.FrontRule`.
        batch: trials asked for at a time; None is one for each worker, but at most a quarter of `n_trials`.
        first: what the first trials of the study are, one after the other, before the sampler draws any: each a text
            such as `d=7 k=32`; keys that it does not name are drawn. A grid has no use for it.

    Raises:
        ValueError: a value is out of range; names the key.
    """

    n_trials: int | None = 20
    sampler: str = "tpe"
    seed: int = 0
    storage: str | None = None
    study_name: str = "frontier"
    budget_bytes: int | None = None
    objectives: list[str] | None = None
    inference: str = ENCODER
    pruner: str | None = None
    prune_share: float = 0.25
    prune_margin: float = 0.1
    prune_after: float = 0.25
    batch: int | None = None
    first: tuple[str, ...] = ()

    def __post_init__(self):
        check_types(KEY, {field.name: getattr(self, field.name) for field in fields(self)}, get_type_hints(type(self)))
        for name, least in (("n_trials", 1), ("seed", 0), ("budget_bytes", 1), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{_key(name)}={value} must be at least {least}")
        for name, known in (("sampler", [*SAMPLERS, GRID]), ("pruner", [FRONTIER, *PRUNERS])):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{_key(name)}={value} is unknown: choose from {', '.join(known)}")
        if self.n_trials is None and self.sampler != GRID:
            raise ValueError(f"{KEY}n_trials=null (every combination) is for {KEY}sampler=grid; give a number")
        if not re.fullmatch(r"\w[\w.+-]*", self.study_name):
            raise ValueError(f"{KEY}study_name={self.study_name} must be a name of letters, digits, _ . + -")
        for name, least in (("prune_share", 0), ("prune_margin", 0), ("prune_after", 0.25)):
            value = getattr(self, name)
            if not least <= value <= 1:
                raise ValueError(f"{KEY}{name}={value} must be in {least}..1")
        self._check_objectives()
        try:
            object.__setattr__(self, "inference", inference_name(self.inference))
        except ValueError as error:
            raise ValueError(f"{KEY}inference={error}") from None

    @property
    def directions(self) -> dict[str, Direction]:
        """The direction of each objective, by its name."""
        by_default = [STORED, RECOVERED] if self.budget_bytes is None else [RECOVERED]
        return {name: direction(name) for name in (by_default if self.objectives is None else self.objectives)}

    def _check_objectives(self) -> None:
        """Raise ValueError if an objective is unknown or there is none, or the pruner cannot judge by them."""
        try:
            aims = list(self.directions)
        except ValueError as error:
            raise ValueError(f"{KEY}objectives: {error}") from None
        if not aims:
            raise ValueError(f"{KEY}objectives=[] must name at least one")
        if self.pruner is None:
            return
        preserved, listed = [name for name in aims if is_foretold(name)], ", ".join(aims)
        if self.pruner == FRONTIER and len(aims) == 1:
            raise ValueError(
                f"{KEY}pruner={FRONTIER} needs {STORED} as a second objective beside {listed}: leave out budget_bytes, "
                f"or choose {' or '.join(PRUNERS)}"
            )
        if self.pruner == FRONTIER and (len(preserved) != 1 or len(aims) != 2 or STORED not in aims):
            raise ValueError(
                f"{KEY}pruner={FRONTIER} is for {STORED} and one measure of what is preserved, such as {RECOVERED}: "
                f"the FVU of training foretells no other ({listed})"
            )
        if self.pruner != FRONTIER and (len(aims) != 1 or not preserved):
            raise ValueError(
                f"{KEY}pruner={self.pruner} needs one objective, a measure of what is preserved ({listed}): give "
                f"budget_bytes=..., or {KEY}pruner={FRONTIER} for {STORED} and {RECOVERED}"
            )


def search_config(given: dict[str, Any]) -> SearchConfig:
    """Return the settings that YAML and the command line give; `budget_bytes=1e6` is a whole number too."""
    budget = given.get("budget_bytes")
    if isinstance(budget, float) and budget.is_integer():
        given = {**given, "budget_bytes": int(budget)}
    return SearchConfig(**{**given, "first": tuple(given.get("first") or ())})


def _key(name: str) -> str:
    return name if name == "budget_bytes" else KEY + name
