"""The cells of a grid: what its lists, an experiment's and the command line's, combine to.

The command line wins over what an experiment file lists, see `selected`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from sweep.jobs.compose import Composer
from sweep.jobs.overrides import key_of
from sweep.jobs.words import apart, split, zipped

Cell = tuple[list[str], DictConfig]  # (overrides that distinguish the cell, composed config)
_ZIP = "zip"  # the key of an experiment file that holds axes which move together


class Lists(NamedTuple):
    """What a sweep is to combine, beside the overrides of the command line."""

    params: dict[str, Any]  # {key: comma-separated choices}
    grids: list[dict[str, Any]]  # several such sets, each combined with params; none: one empty set
    zips: Sequence[str] = ()  # the insides of zip(...) on the command line
    sets: Sequence[str] = ()  # those of grid(...)


def cells(master: DictConfig, lists: Lists, arguments: Sequence[str], loader: ConfigLoader) -> Iterator[Cell]:
    """Yield every cell, in the order of the lists.

    Args:
        master: the sweeper's own config, with its `hydra` node.
        arguments: the command line's overrides.

    Raises:
        ValueError: axes that move together have different numbers of values, or a key is given twice.
    """
    compose, listed_by = Composer(loader, master), partial(choices_of, loader=loader)
    choices = {argument: listed_by(argument) for argument in arguments}
    given = {key_of(argument): {choice.split("=", 1)[-1] for choice in choices[argument]} for argument in arguments}
    for text in lists.sets or [""]:
        overrides, zips = apart(split(text))
        together = [zipped(inside, listed_by) for inside in (*lists.zips, *zips)]
        own_keys = [key_of(word) for word in overrides]
        taken = _keys_once([*own_keys, *_keys(together)], given)
        for grid, chosen in selected(lists.grids, given):
            listed = {key: value for key, value in {**lists.params, **grid}.items() if key not in taken}
            moving = [*together, *(zipped(inside, listed_by) for inside in _texts(listed.pop(_ZIP, [])))]
            _keys_once([*own_keys, *_keys(moving)], given)
            own = [f"{key}={value}" for key, value in listed.items() if key not in given or key in chosen]
            others = [choices[argument] for argument in arguments if key_of(argument) not in chosen]
            fixed = {values[0] for values in others if len(values) == 1}
            alone = [listed_by(word) for word in (*own, *overrides)]
            axes = [*([(value,) for value in values] for values in alone), *moving]
            for combination in itertools.product(*axes, *([(value,) for value in values] for values in others)):
                words = [word for step in combination for word in step]
                yield [word for word in words if word not in fixed] or words, compose(words)


def _keys(moving: Sequence[Sequence[tuple[str, ...]]]) -> list[str]:
    return [key_of(word) for steps in moving for word in steps[0]]


def _keys_once(keys: Sequence[str], given: dict[str, set[str]]) -> set[str]:
    """Return the keys. Raises ValueError where one stands twice, or outside of zip(...) and grid(...) as well."""
    for i, key in enumerate(keys):
        if key in given or key in keys[:i]:
            raise ValueError(f"{key} is given twice: within zip(...) or grid(...) and once more")
    return set(keys)


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def selected(grids: list[dict[str, Any]], given: dict[str, set[str]]) -> list[tuple[dict[str, Any], set[str]]]:
    """Return the grids to run, each with its keys that the command line selected from.

    If every value that the command line gives a key is listed by some grid, the key selects: each grid keeps the given
    values that it lists, and a grid that lists none of them is dropped. Otherwise the given values replace the listed.
    So `model=embedded` picks that LM's grid with its layers and sizes, and `model=local` runs every grid on the user's
    own. Keys select in the order in which grids list them.

    Args:
        grids: {key: comma-separated choices} of each grid.
        given: the values that the command line gives, by key.
    """
    left: list[tuple[dict[str, Any], set[str]]] = [(grid, set()) for grid in grids]
    order = list(dict.fromkeys(key for grid in grids for key in grid))
    for key in sorted(given.keys() & set(order), key=order.index):
        listed = [choices_of(f"{key}={grid[key]}") if key in grid else None for grid, _ in left]
        known = {choice.split("=", 1)[1] for choices in listed for choice in choices or []}
        if not given[key] <= known:
            continue
        kept: list[tuple[dict[str, Any], set[str]]] = []
        for (grid, chosen), choices in zip(left, listed, strict=True):
            values = [choice.split("=", 1)[1] for choice in choices or []]
            values = [value for value in values if value in given[key]]
            if choices is None:
                kept.append((grid, chosen))
            elif values:
                kept.append(({**grid, key: ",".join(values)}, {*chosen, key}))
        left = kept
    return left


def choices_of(argument: str, loader: ConfigLoader | None = None) -> list[str]:
    """Return `key=a,b` as the overrides `key=a` and `key=b`, and anything else as it is.

    Args:
        loader: needed for `key=glob(*)`.
    """
    (override,) = OverridesParser.create(config_loader=loader).parse_overrides([argument])
    if not override.is_sweep_override():
        return [argument]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
