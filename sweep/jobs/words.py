"""Words of the command line that Hydra's grammar lacks, and what the grid sweeper is told in their place.

zip(d=3,7 n=16m,8m)         these axes move together: the first values of all, then the second ones, and so on
grid(sae=expander d=3,7)    one of several sets of lists; each is combined with the words outside of any grid(...)
experiment=a+b              the cells of both experiments in one sweep

In an experiment file `zip` is a key among the lists, `zip: d=3,7 n=16m,8m`, or a list of such texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sweep.jobs.overrides import key_of, quoted

ADDED = ZIPS, SETS, EXPERIMENTS = "hydra.sweeper.zips", "hydra.sweeper.sets", "hydra.sweeper.experiments"
_WORD = re.compile(r"(zip|grid)\((.*)\)", re.DOTALL)
_MULTIRUN = ("-m", "--multirun")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def hydra_words(words: Sequence[str]) -> list[str]:
    """Return the command line with words that Hydra reads in place of those that it does not know.

    Where there are such words it is a sweep, with or without -m.

    Raises:
        ValueError: a zip(...) or grid(...) holds nothing or cannot be read, or an experiment has an empty name.
    """
    found: dict[str, list[str]] = {"zip": [], "grid": []}  # what stands inside
    rest: list[str] = []
    for word in words:
        special = _WORD.fullmatch(word.strip())
        if special is None:
            rest.append(word)
            continue
        inner = special[2].strip()
        if not split(inner):
            raise ValueError(f"{word} holds nothing: write it like {special[1]}(d=3,7 n=16m,8m)")
        found[special[1]].append(inner)
    keys = {"zip": ZIPS, "grid": SETS}
    told = [_list(keys[kind], texts) for kind, texts in found.items() if texts]
    rest, joined = _split_experiments(rest)
    if joined:
        told.append(_list(EXPERIMENTS, joined))
    flag = ["-m"] if told and not any(word in _MULTIRUN for word in words) else []
    return [*flag, *rest, *told]


def _list(key: str, texts: Sequence[str]) -> str:
    return f"{key}=[{','.join(map(quoted, texts))}]"


def _split_experiments(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words with the first of several experiments alone, and the names of all of them, [] if just one."""
    for i, word in enumerate(words):
        key, equals, value = word.partition("=")
        if key.lstrip("+") == "experiment" and equals and "+" in value:
            names = value.split("+")
            if not all(names):
                raise ValueError(f"{word} names no experiment beside a +: write it like experiment=frontier+seeds")
            return [*words[:i], f"{key}={names[0]}", *words[i + 1 :]], names
    return words, []


def split(text: str) -> list[str]:
    """Return the words of `text`, which blanks part except within brackets and quotes.

    Raises:
        ValueError: a bracket or quote has no partner.
    """
    found, word, closing, quote = list[str](), "", list[str](), ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in _PAIRS:
            closing.append(_PAIRS[sign])
        elif sign in _PAIRS.values() and (not closing or closing.pop() != sign):
            raise ValueError(f"{text} has a {sign} too many")
        if sign.isspace() and not closing and not quote:
            found, word = [*found, word], ""
        else:
            word += sign
    if closing or quote:
        raise ValueError(f"{text} lacks a {quote or closing[-1]}")
    return [word for word in [*found, word] if word]


def apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides among the words of a grid(...), and the insides of its zip(...)."""
    overrides, zips = list[str](), list[str]()
    for word in words:
        special = _WORD.fullmatch(word)
        if special is None:
            overrides.append(word)
        elif special[1] == "zip":
            zips.append(special[2])
        else:
            raise ValueError(f"{word} stands inside of another grid(...)")
    return overrides, zips


def zipped(text: str, choices_of: Callable[[str], list[str]]) -> list[tuple[str, ...]]:
    """Return the overrides of each step of axes that move together.

    Args:
        text: the inside of a zip(...).
        choices_of: returns `key=a,b` as the overrides `key=a` and `key=b`.

    Raises:
        ValueError: the axes have different numbers of values, or a key stands twice.
    """
    axes = [choices_of(word) for word in split(text)]
    counts = {key_of(choices[0]): len(choices) for choices in axes}
    if len(set(counts.values())) > 1:
        sizes = ", ".join(f"{key} has {count}" for key, count in counts.items())
        raise ValueError(f"zip({text}): all axes must have as many values, but {sizes}")
    if len(counts) < len(axes):
        raise ValueError(f"zip({text}): a key stands twice in it")
    return list(zip(*axes, strict=True))
