"""What the formats with rows share: the text in a row's field, and errors that name the row."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from sweep.corpus.documents import CorpusError

_MOST_NAMES = 12
_LONGEST_NAME = 40


def text_of(value: Any, where: str, field: str) -> str | None:
    """Return the text that a row holds, or None where it is null.

    Args:
        value: what the row holds in the field.
        where: the row's place, for errors.
        field: the field's name, for errors.

    Raises:
        CorpusError: the value is neither text nor null.
    """
    if value is None or isinstance(value, str):
        return value
    shown = repr(value)
    shown = shown if len(shown) <= _LONGEST_NAME else shown[:_LONGEST_NAME] + "..."
    raise CorpusError(f"{where}: corpus.text_field={field} must hold text, but holds {shown} ({type(value).__name__})")


def field_names(names: Iterable[object]) -> str:
    """Return the names of a row's fields for an error: the first dozen, cut to a readable length."""
    shown = [str(name)[:_LONGEST_NAME] for name in islice(names, _MOST_NAMES + 1)]
    return ", ".join(shown[:_MOST_NAMES] + ["..."] * (len(shown) > _MOST_NAMES)) or "none"
