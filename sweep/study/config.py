"""What a search is asked to do: the keys of `hydra.sweeper`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any, Literal, get_type_hints

from sae_core.inference import ENCODER, inference_name
from sweep.jobs.checks import check_types
from sweep.study.samplers import GRID, PRUNERS, SAMPLERS

KEY = "hydra.sweeper."


@dataclass(frozen=True)
class SearchConfig:
    """Checked on construction. Raises ValueError for a value that is out of range.

    Args:
        n_trials: complete (or pruned) trials that the study shall have, those of earlier launches included; None, with
            `grid` alone, for every combination.
        sampler: a name of `SAMPLERS`, or `grid`.
        seed: of the sampler; runs have their own.
        storage: see `sweep.study.storage`; None keeps the study in memory.
        budget_bytes: None searches stored bytes and CE recovered together; else CE recovered alone, among SAEs whose
            file has at most so many bytes.
        inference: whose reading of the codes CE recovered is taken from.
        pruner: a name of `PRUNERS`, where CE recovered is searched alone.
        batch: trials asked for at a time; None for as many as there are workers.
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
        """What is sought -> which way."""
        if self.budget_bytes is None:
            return {"stored_bytes": "minimize", "ce_recovered": "maximize"}
        return {"ce_recovered": "maximize"}


def search_config(given: dict[str, Any]) -> SearchConfig:
    """As YAML and the command line give it: `budget_bytes=1e6` is a whole number too."""
    budget = given.get("budget_bytes")
    if isinstance(budget, float) and budget.is_integer():
        given = {**given, "budget_bytes": int(budget)}
    return SearchConfig(**given)


def _key(name: str) -> str:
    return name if name == "budget_bytes" else KEY + name
