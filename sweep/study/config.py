"""Check what a search is asked to do: the keys of `hydra.sweeper`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints

from sae_core.inference import ENCODER, inference_name
from sweep.jobs.config_checks import check_types
from sweep.study.samplers import GRID, PRUNERS, SAMPLERS

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
        budget_bytes: with None, the search minimises stored bytes and maximises CE recovered; with a number, it only
            maximises CE recovered, among SAEs whose file has at most so many bytes.
        inference: the way to read codes (`sae_core.inference`) that CE recovered is taken from.
        pruner: a name of `PRUNERS`; only for a search of CE recovered alone.
        batch: trials asked for at a time; None is one for each worker, but at most a quarter of `n_trials`.

    Raises:
        ValueError: a value is out of range; names the key.
    """

    n_trials: int | None = 20
    sampler: str = "tpe"
    seed: int = 0
    storage: str | None = None
    study_name: str = "frontier"
    budget_bytes: int | None = None
    inference: str = ENCODER
    pruner: str | None = None
    batch: int | None = None

    def __post_init__(self):
        check_types(KEY, {field.name: getattr(self, field.name) for field in fields(self)}, get_type_hints(type(self)))
        for name, least in (("n_trials", 1), ("seed", 0), ("budget_bytes", 1), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{_key(name)}={value} must be at least {least}")
        for name, known in (("sampler", [*SAMPLERS, GRID]), ("pruner", list(PRUNERS))):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{_key(name)}={value} is unknown: choose from {', '.join(known)}")
        if self.n_trials is None and self.sampler != GRID:
            raise ValueError(f"{KEY}n_trials=null (every combination) is for {KEY}sampler=grid; give a number")
        if not re.fullmatch(r"\w[\w.+-]*", self.study_name):
            raise ValueError(f"{KEY}study_name={self.study_name} must be a name of letters, digits, _ . + -")
        if self.pruner is not None and self.budget_bytes is None:
            raise ValueError(
                f"{KEY}pruner={self.pruner} needs one objective: give budget_bytes=... (Optuna prunes no study of two)"
            )
        try:
            object.__setattr__(self, "inference", inference_name(self.inference))
        except ValueError as error:
            raise ValueError(f"{KEY}inference={error}") from None

    @property
    def objectives(self) -> dict[str, Literal["minimize", "maximize"]]:
        """The direction of each objective, by its name."""
        if self.budget_bytes is None:
            return {"stored_bytes": "minimize", "ce_recovered": "maximize"}
        return {"ce_recovered": "maximize"}


def search_config(given: dict[str, Any]) -> SearchConfig:
    """Return the settings that YAML and the command line give; `budget_bytes=1e6` is a whole number too."""
    budget = given.get("budget_bytes")
    if isinstance(budget, float) and budget.is_integer():
        given = {**given, "budget_bytes": int(budget)}
    return SearchConfig(**given)


def _key(name: str) -> str:
    return name if name == "budget_bytes" else KEY + name
