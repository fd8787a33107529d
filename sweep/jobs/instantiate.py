"""This module turns a config group into the object that it describes. No other module instantiates from config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_args, get_type_hints

from sweep.jobs.config_checks import check_keys, check_types


def instantiate(group: Mapping[str, Any], name: str, kind: type | None = None, default: type | None = None) -> Any:
    """Build the object that a config group describes; the constructor's signature is the group's schema.

    Args:
        group: the group as plain values; `_target_` names the class as `module.Class`. Groups inside it are built too.
        name: the group's name, which goes before the keys in messages.
        kind: the type that the object must have.
        default: the class of a group that names none.

    Raises:
        ValueError: the class cannot be imported or is not of `kind`, a key is not in its signature, a value is not of
            the annotated type or out of range.
    """
    target = default if default is not None and "_target_" not in group else _imported(group, name)
    given = {key: value for key, value in group.items() if key != "_target_"}
    check_keys(f"{name}.", given, set(inspect.signature(target).parameters))
    given = {key: _inner(value, f"{name}.{key}") for key, value in given.items()}
    hints = get_type_hints(target if is_dataclass(target) else target.__init__)  # fields may be those of a base
    check_types(f"{name}.", given, hints)
    # A whole number where a number is meant becomes a float: 1 and 1.0 are one setting and must give one run id.
    given = {key: float(value) if _is_whole(value, hints.get(key)) else value for key, value in given.items()}
    try:
        built = target(**given)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
    if kind is not None and not isinstance(built, kind):
        raise ValueError(f"{name}._target_={group['_target_']} is not a {kind.__name__}")
    return built


def _imported(group: Mapping[str, Any], name: str) -> type:
    try:
        module, _, member = str(group.get("_target_")).rpartition(".")
        return getattr(import_module(module), member)
    except Exception as error:  # importing what a config names can raise anything
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}._target_={group.get('_target_')} is no class ({reason})") from None


def _is_whole(value: Any, hint: Any) -> bool:
    """Tell whether `value` is a whole number where the annotation `hint` asks for a number, or a number or null."""
    return isinstance(value, int) and float in {hint, *get_args(hint)} and int not in get_args(hint)


def _inner(value: Any, name: str) -> Any:
    """Return a value as a constructor takes it: a group as its object, a list as a tuple."""
    if isinstance(value, dict) and "_target_" in value:
        return instantiate(value, name)
    return tuple(value) if isinstance(value, list) else value
