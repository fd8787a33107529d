"""Open a study: make a new one, or take the one of that name in the storage if it is the same search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna import Study

from sweep.jobs.spec import SEED_PARTS
from sweep.study.config import SearchConfig
from sweep.study.samplers import pruner_named
from sweep.study.space import Space, differences, written
from sweep.study.storage import open_storage

ABOUT = "search"  # the name of the study's attribute that says what is searched
_GROUPS = ("model", "corpus", "sae", "train", "eval")
_AXES = ("layer", "d", "k", "n", "seed", "cache_dtype")
# Settings that may differ between the launches of one search, as they change no result.
_NO_RESULT = {"eval.inference", "eval.novelty", "eval.contexts", "train.checkpoint_every", "model.batch_size"}


class StudyError(ValueError):
    """The storage has a study of that name, and it searches something else."""


def open_study(config: SearchConfig, space: Space, cfg: DictConfig) -> Study:
    """Return the study, and make it if the storage has none of its name.

    Args:
        cfg: the config without any drawn value.

    Raises:
        StorageError: the storage cannot be used.
        StudyError: the study that is there searches something else; the message says what differs.
    """
    study = optuna.create_study(
        storage=open_storage(config.storage),
        study_name=config.study_name,
        directions=list(config.directions.values()),
        pruner=pruner_named(config.pruner),
        load_if_exists=True,
    )
    asked = about(config, space, cfg)
    stored = study.user_attrs.get(ABOUT)
    if stored is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(ABOUT, asked)
        study.set_metric_names(list(config.directions))
    else:
        _check(study, stored, asked)
        if stored != asked:  # the bounds of a range have moved
            study.set_user_attr(ABOUT, asked)
    return study


def about(config: SearchConfig, space: Space, cfg: DictConfig) -> dict[str, Any]:
    """Return what distinguishes this search from others, in the form in which the study's attribute keeps it."""
    return {
        "objectives": list(config.directions),
        "budget_bytes": config.budget_bytes,
        "inference": config.inference,
        "space": written(space),
        "fixed": _fixed(space, cfg),
    }


def _check(study: Study, stored: Mapping[str, Any] | None, asked: Mapping[str, Any]) -> None:
    """Raise StudyError unless the study's attribute and ours describe the same search."""
    where = f"hydra.sweeper.study_name={study.study_name}"
    if stored is None:
        raise StudyError(f"{where} is a study that another program made; give this search another name")
    found = [
        f"{key} was {_listed(stored[key])} and is {_listed(asked[key])}"
        for key in ("objectives", "budget_bytes", "inference")
        if stored[key] != asked[key]
    ]
    found += differences(stored["space"], asked["space"])
    before, now = stored["fixed"], asked["fixed"]
    # `differences` has named the keys that are searched in one and fixed in the other.
    keys = [key for key in {**before, **now} if not _within(key, {*stored["space"], *asked["space"]})]
    found += [f"{key} was {before.get(key)} and is {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise StudyError(f"{where} in the storage is another search: {found[0]}{more}; give it another name")


def _fixed(space: Space, cfg: DictConfig) -> dict[str, str]:
    """Return the settings that all trials share and that change their results."""
    flat: dict[str, str] = {axis: str(cfg.get(axis)) for axis in _AXES}
    # Studies that are older than these settings name none.
    flat |= {name: str(cfg.get(name)) for name in SEED_PARTS if cfg.get(name) is not None}
    for group in _GROUPS:
        # Interpolations stay as they are: sae.degree is ${d}, whatever value of d is drawn.
        node = cfg.get(group)
        plain = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else {}
        flat |= _flat(group, cast(dict[str, Any], plain))
    return {
        key: value for key, value in flat.items() if key not in _NO_RESULT and not _within(key, space.distributions)
    }


def _flat(prefix: str, node: Any) -> dict[str, str]:
    """Return the leaves of a nested config by their dotted keys."""
    if not isinstance(node, dict):
        return {prefix: str(node)}
    return {key: value for name, item in node.items() for key, value in _flat(f"{prefix}.{name}", item).items()}


def _within(key: str, searched: Any) -> bool:
    """Tell whether `key` is searched, or is part of a group that is."""
    return any(key == name or key.startswith(f"{name}.") for name in searched)


def _listed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
