"""The settings by which files become texts, whatever their format."""

from __future__ import annotations

from typing import NamedTuple


class Reading(NamedTuple):
    """The settings of `corpus=text` by which its files become documents."""

    separator: str  # the end of a document in plain text
    text_field: str  # the key or column that holds a document in formats with rows
    encoding: str  # of plain text and JSON lines, as `encoding_name` returns it
