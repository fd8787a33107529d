"""The choices of a config group: the files of its folder in `conf/`, and of the folders below it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable


def choices(group: str) -> list[str]:
    """Return the names that `group=NAME` may have, such as `frontier` and `controls/bits`; none for other keys."""
    folder = resources.files("conf").joinpath(*group.split("/"))
    return sorted(_names(folder)) if folder.is_dir() else []


def _names(folder: Traversable, above: str = "") -> list[str]:
    found: list[str] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _names(entry, f"{above}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            found.append(above + entry.name.removesuffix(".yaml"))
    return found


def unknown_choice(group: str, name: str, known: Iterable[str] = ()) -> str:
    """Return the line that says that a group has no such choice, which ones it has, and which one was perhaps meant.

    Args:
        known: choices beside those of `choices`, such as those of a plugin.
    """
    known = sorted({*choices(group), *known})
    names = {choice.rpartition("/")[2]: choice for choice in known}  # some are known by their last part
    names |= {choice: choice for choice in known}
    close = get_close_matches(name, names, n=1)
    meant = f"; did you mean {names[close[0]]}?" if close else "."
    return f"there is no {group}={name}{meant} There are {', '.join(known)}"
