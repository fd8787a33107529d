"""Texts in Hydra's overrides KEY=VALUE: write one so that it is read as it is, and say how a user quotes one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

_PATHS = re.compile(r"(\w+_dir|cache\.local|.*\.(path|storage|folder|dir))$")  # keys whose values are files or folders


def quoted(text: str) -> str:
    """Return `text` as the value of an override, whatever characters it has.

    Hydra reads the quotes, and OmegaConf an interpolation where `${` is not escaped.
    """
    return QuotedString(without_interpolations(text), Quote.double).with_quotes()


def without_interpolations(text: str) -> str:
    """Return `text` as a config holds it, so that OmegaConf resolves it to the same text even if it has a `${`."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def literal(settings: Any) -> Any:
    """Return resolved settings as a config holds them, so that OmegaConf resolves them to the same once more."""
    if isinstance(settings, dict):
        return {key: literal(item) for key, item in settings.items()}
    if isinstance(settings, list):
        return [literal(item) for item in settings]
    return without_interpolations(settings) if isinstance(settings, str) else settings


def is_path(key: str) -> bool:
    """Tell whether the values of a config's key are files or folders."""
    return _PATHS.fullmatch(key) is not None


def key_of(argument: str) -> str:
    """Return the key of an override as a config has it."""
    return argument.split("=", 1)[0].lstrip("+~")


def as_one_text(argument: str) -> str:
    """Return what a user types in a shell so that the value of the override `argument` is read as one text.

    For `runs_dir=/data/a,b` that is `'runs_dir="/data/a,b"'`: the outer quotes are the shell's, the inner ones Hydra's.
    """
    key, _, value = argument.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return shlex.quote(f"{key}={quoted(value)}")


def unreadable(argument: str) -> str:
    """Return the line that says that Hydra cannot read an argument of the command line, and what to type instead."""
    if called := re.match(r"(\w+)\s*[(\[]", argument):  # a bracket before any =
        if called[1] not in ("zip", "grid"):
            return (
                f"there is no {called[1]}(...): axes move together in 'zip(d=3,7 n=16m,8m)', and 'grid(...)' is a grid"
            )
        lacks = "a bracket is another one or has no partner, or the shell has split the word"
        return f"{argument} cannot be read: {lacks}; write it like '{called[1]}(d=3,7 n=16m,8m)', with the quotes"
    if "=" not in argument:
        return f"{argument} is not of the form KEY=VALUE; python -m sweep --help lists the keys"
    return f"{argument} cannot be read as an override; if its value is one text, quote it: {as_one_text(argument)}"


def quoting_hint(error: str, arguments: Iterable[str]) -> str:
    """Return what to add to the line `error` where one of `arguments` was perhaps meant as one text; "" elsewhere."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if value and _was_one_text(error, key.lstrip("+~"), value):
            return f"; if its value is one text, quote it: {as_one_text(argument)}"
    return ""


def _was_one_text(error: str, key: str, value: str) -> bool:
    """Tell whether Hydra has perhaps taken a text apart: at commas or brackets, or as a number or a reference."""
    if error.startswith(f"{key}="):
        return "must be text" in error or (is_path(key) and "," in value and value[0] not in "\"'")
    refers = re.search(r"(?<!\\)\$\{", value) or f"full_key: {key} " in error
    return "Interpolation key" in error and "${" in value and bool(refers)
