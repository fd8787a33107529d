"""The fields of a config that a hash of it covers.

A run is named by the hash of its settings, an activation entry by the hash of its key. These names must outlive the
code: when a config gains a field, earlier runs keep their names. So each field says whether the hash covers it:

    lr: float = 3e-4                                       always part of the hash
    match: str = later("values")                           part of the hash unless it is at its default
    checkpoint_every: int = changes_no_result(1000)        never part of the hash
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, field, fields, is_dataclass
from typing import Any

_COUNTS = "counts_in_hash"
_LATER, _NEVER = "unless at its default", "never"


def later(default: Any) -> Any:
    """Return a dataclass field that was added when results had already been named by a hash of the others.

    At its default the field is left out of the hash, so that those results keep their names.
    """
    return field(default=default, metadata={_COUNTS: _LATER})


def changes_no_result(default: Any) -> Any:
    """Return a dataclass field that no result depends on, such as how often a checkpoint is written."""
    return field(default=default, metadata={_COUNTS: _NEVER})


def hashed_fields(config: Any, nested: Callable[[Any], dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return {name: value} of the fields of a dataclass instance that its hash covers.

    Args:
        config: the dataclass instance.
        nested: how a field that is a dataclass itself is described; by its own hashed fields unless given.
    """
    describe = nested or hashed_fields
    values = {each.name: getattr(config, each.name) for each in fields(config) if _counts(each, config)}
    return {name: describe(value) if is_dataclass(value) else value for name, value in values.items()}


def later_fields(config: Any) -> list[dict[str, Any]]:
    """Return what newer fields add to a hash that is made of chosen values instead of all fields.

    That is one dictionary of the `later` fields that are not at their default, or nothing where all are.
    """
    newer = [each for each in fields(config) if each.metadata.get(_COUNTS) == _LATER and _counts(each, config)]
    return [{each.name: getattr(config, each.name) for each in newer}] if newer else []


def _counts(each: Field[Any], config: Any) -> bool:
    counts = each.metadata.get(_COUNTS)
    if not each.init or counts == _NEVER:
        return False
    return counts != _LATER or getattr(config, each.name) != each.default
