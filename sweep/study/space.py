"""Read the search space from overrides, in Hydra's own grammar.

d=3,7,15  d=choice(3,7,15)  sae=expander,dynamic  sae=glob(*)    one of these
d=range(3,61,step=3)                       3, 6, ..., 60: the end is excluded, as everywhere in Hydra
d=interval(3,60)                           a whole number if both ends are whole; the ends are included
train.lr=tag(log,interval(1e-4,1e-2))      a number, uniform in its logarithm
d=int(interval(3.0,60.0))                  a whole number
k=32                                       fixed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from sweep.private_names import grammar_functions


class SpaceError(ValueError):
    """A key cannot be searched in the values given."""


class Space(NamedTuple):
    """The parameters of a search, and what all its trials share."""

    distributions: dict[str, BaseDistribution]  # in order of their names: a search draws them in this order
    keys: dict[str, str]  # the key of each parameter as its override has it, with a leading + if it has one
    fixed: list[str]  # overrides that every trial has
    intervals: frozenset[str]  # the parameters that have no list of values

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a trial: the fixed ones, and the values drawn."""
        return [*self.fixed, *(f"{self.keys[name]}={_written(params[name])}" for name in self.distributions)]


def space_from(params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader | None = None) -> Space:
    """Return the space that a YAML file gives in `params` and the command line in `arguments`, which wins by key.

    Raises:
        SpaceError: a range is empty or cannot be searched, or no key has several values.
        HydraException: an argument is not of Hydra's grammar.
    """
    parser = OverridesParser(grammar_functions(interval=_interval_as_written), loader)
    given = parser.parse_overrides(list(arguments))
    named = {_name(override) for override in given}
    listed = parser.parse_overrides([f"{key}={_as_text(value)}" for key, value in params.items()])
    overrides = [*(override for override in listed if _name(override) not in named), *given]
    searched = {_name(override): override for override in overrides if override.is_sweep_override()}
    if not searched:
        raise SpaceError("nothing to search: give a key several values, such as d=3,7,15 or d=interval(3,60)")
    return Space(
        {name: _distribution(name, searched[name]) for name in sorted(searched)},
        {name: override.get_key_element() for name, override in searched.items()},
        [str(override.input_line) for override in overrides if not override.is_sweep_override()],
        frozenset(name for name, override in searched.items() if override.is_interval_sweep()),
    )


def values_of(space: Space, name: str) -> Sequence[Any]:
    """Return every value of a parameter in the order of a grid. Raises SpaceError for an interval."""
    distribution = space.distributions[name]
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    if name in space.intervals or distribution.step is None:
        raise SpaceError(f"{name}={described(distribution)}: sampler=grid needs a list, or range(first,end,step)")
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return [distribution.low + index * distribution.step for index in range(count)]


def cell_of(space: Space, words: str) -> dict[str, Any]:
    """Return the values of the parameters that `words` gives, such as `d=7 sae.bits=2`; the others are drawn.

    Raises:
        SpaceError: a word is not KEY=VALUE of a parameter, or its value is not one that is searched.
    """
    found: dict[str, Any] = {}
    for word in words.split():
        name, _, text = word.partition("=")
        if name not in space.distributions:
            raise SpaceError(f"{word} is of no key that is searched: {', '.join(space.distributions)}")
        found[name] = _value(name, space.distributions[name], text)
    return found


def _value(name: str, distribution: BaseDistribution, text: str) -> Any:
    """Return the value that is written as `text`. Raises SpaceError where it is not one of the parameter's."""
    named: list[Any] = []
    if isinstance(distribution, CategoricalDistribution):
        named = [choice for choice in distribution.choices if _written(choice) == text]
    else:
        assert isinstance(distribution, (IntDistribution, FloatDistribution))
        whole = isinstance(distribution, IntDistribution)
        with suppress(ValueError):
            number = int(text) if whole else float(text)
            on_a_step = not distribution.step or round((number - distribution.low) / distribution.step, 9).is_integer()
            named = [number] if distribution.low <= number <= distribution.high and on_a_step else []
    if not named:
        raise SpaceError(f"{name}={text} is not among {described(distribution)}")
    return named[0]


def differences(stored: Mapping[str, str], asked: Mapping[str, str]) -> list[str]:
    """Return what keeps two spaces, as `written` gives them, from being one study; bounds of a range may move."""
    found = [f"{name} is searched now and was not" for name in asked if name not in stored]
    found += [f"{name} was searched and is not now" for name in stored if name not in asked]
    for name in asked:
        if name in stored and not _compatible(stored[name], asked[name]):
            before, now = (described(json_to_distribution(kept[name])) for kept in (stored, asked))
            found.append(f"{name} was searched in {before} and now in {now}")
    return found


def written(space: Space) -> dict[str, str]:
    """Return the space as a study's attribute keeps it."""
    return {name: distribution_to_json(distribution) for name, distribution in space.distributions.items()}


def described(distribution: BaseDistribution) -> str:
    """Return a parameter's values as a user would write them."""
    if isinstance(distribution, CategoricalDistribution):
        return ",".join(str(_written(choice)) for choice in distribution.choices)
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None and step != 1:
        return f"{low:g},{low + step:g},...,{high:g}"
    text = f"interval({low:g},{high:g})"
    return f"tag(log,{text})" if distribution.log else text


def _compatible(stored: str, asked: str) -> bool:
    """Tell whether one parameter of a study may have both distributions.

    They must be of one kind, with the same choices, or with the same scale and step. Optuna demands all of this except
    the same step.
    """
    if stored == asked:
        return True
    before, now = json_to_distribution(stored), json_to_distribution(asked)
    if type(before) is not type(now) or isinstance(before, CategoricalDistribution):
        return False
    return all(getattr(before, part) == getattr(now, part) for part in ("log", "step"))


def _interval_as_written(start: int | float, end: int | float) -> IntervalSweep:
    """Return the interval with whole ends left whole, where Hydra's own function makes every end a float."""
    return IntervalSweep(start=start, end=end)


def _distribution(name: str, override: Override) -> BaseDistribution:
    """Return the distribution that an override of several values stands for."""
    value = override.value()
    tags = getattr(value, "tags", set())
    if isinstance(value, IntervalSweep):
        return _interval(name, value.start, value.end, _log(name, tags))
    if _log(name, tags):
        raise SpaceError(f"{override.input_line}: tag log is for interval(...)")
    if isinstance(value, RangeSweep):
        return _range(name, override, value)
    found = list(dict.fromkeys(_choice(item) for item in _items(override)))
    if not found:
        raise SpaceError(f"{override.input_line} has no value")
    return CategoricalDistribution(found)


def _log(name: str, tags: Iterable[str]) -> bool:
    """Tell whether `tags` ask for a logarithmic scale. Raises SpaceError for any other tag."""
    for tag in tags:
        if tag != "log":
            raise SpaceError(f"{name}=tag({tag},...) is unknown: the one tag is log")
    return bool(tags)


def _interval(name: str, low: Any, high: Any, log: bool) -> BaseDistribution:
    if not low < high or log and low <= 0:
        raise SpaceError(f"{name}=interval({low},{high}) must rise{' from above 0' if log else ''}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(name: str, override: Override, sweep: RangeSweep) -> BaseDistribution:
    try:
        values = sorted(sweep.range())
    except Exception as error:  # step=0, which Python and Hydra refuse in different ways
        raise SpaceError(f"{override.input_line}: {' '.join(str(error).split())}") from None
    if not values:
        raise SpaceError(f"{override.input_line} is empty (the end is excluded)")
    if len(values) == 1:
        return CategoricalDistribution(values)
    step = abs(sweep.step)
    if isinstance(values[0], int):
        return IntDistribution(values[0], values[-1], step=int(step))
    return FloatDistribution(values[0], values[-1], step=float(step))


def _items(override: Override) -> Iterable[Any]:
    """Return the choices in the order given, even if shuffle(...) asks for another: a study has one order."""
    value = override.value()
    return getattr(value, "list", None) or override.sweep_iterator()


def _choice(item: Any) -> Any:
    """Return a choice as Optuna keeps it: None, numbers and booleans as they are, others as an override's text."""
    plain = item is None or isinstance(item, (bool, int, float))
    return item if plain else Transformer.str(item)


def _written(value: Any) -> str:
    """Return a drawn value as an override has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else Transformer.str(value)


def _name(override: Override) -> str:
    return override.get_key_element().lstrip("+~")
