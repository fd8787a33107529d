"""Checks of config values against a constructor's signature, which is the schema."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text (quote it if it looks like a number)",
    bool: "true or false",
    type(None): "null",
}


def check_keys(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    """Raise ValueError for the first key of `given` that is not in `known`.

    Args:
        where: the keys' prefix in the message, such as `train.`.
    """
    for key in given:
        if key not in known:
            raise ValueError(f"unknown key {where}{key}: choose from {', '.join(sorted(known))}")


def check_types(where: str, given: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Raise ValueError for the first value that is not of its annotated type.

    Args:
        where: the keys' prefix in the message, such as `train.`.
        hints: type annotations by key; a key without one is not checked.
    """
    for key, value in given.items():
        if key in hints and not _fits(value, hints[key]):
            raise ValueError(f"{where}{key}={value} must be {_words(hints[key])}")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether `value` may stand where the annotation `hint` is; a whole number may stand for a float."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin in (list, tuple):
        is_list = isinstance(value, (list, tuple)) or type(value).__name__ == "ListConfig"
        return is_list and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _words(hint: Any) -> str:
    """Return an annotation in words that a user understands."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(option) for option in get_args(hint))
    if origin in (list, tuple):
        return f"a list, each item {_words(get_args(hint)[0])}"
    return _WORDS.get(hint, f"a group with a _target_ that makes a {getattr(hint, '__name__', hint)}")
