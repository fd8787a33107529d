"""What can be wrong with an LM, told in one line."""

from __future__ import annotations


class ModelError(ValueError):
    """The LM cannot be found, read or hooked; the message says what to do."""


class ModelNotHereError(ModelError):
    """A hub model is not on this disk and cannot be downloaded; a sweep over several LMs goes on with the others."""


def first_line(error: BaseException) -> str:
    """Return the error's kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def a_few(names: list[str], most: int = 3) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
