"""Which runs may stand in one figure: those that differ in nothing but what the figure compares."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import pandas as pd

from analysis.frames import groups, where

_REPEATED = ["model", "layer", "n", "arm", "k", "d", "n_latents", "degree", "value_bits", "seed", "settings"]

_RECIPE = ("activations.tokens", "activations.dtype", "activations.seed")  # with train.*: how a run came to be
_SHOWN = 5  # notes of what is left out, before they are counted only

Settings = dict[str, object]


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that may be drawn together: per (model, layer, n) those of the most frequent `settings`.

    A trial with fewer steps or another text must not be averaged with the sweep as if it were one more seed; what is
    left out is said on standard error, with the settings that differ. A run that was not trained (its record names no
    recipe) goes with any recipe. Of runs that repeat a cell and seed, the latest is kept.
    """
    return without_repeats(_agreeing(runs, ["model", "layer", "n"], "settings", "; pareto draws any recipe"))


def measured_alike(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs whose measures mean the same, however they were trained: per (model, layer) those of the LM, text and
    evaluation of most runs. What is left out is said on standard error."""
    measured = {text: json.dumps(_without_recipe(json.loads(text)), sort_keys=True) for text in set(runs["settings"])}
    found = runs.assign(measured=[measured[text] for text in runs["settings"]])
    return _agreeing(found, ["model", "layer"], "measured").drop(columns="measured")


def _without_recipe(settings: Settings) -> Settings:
    return {name: value for name, value in settings.items() if name not in _RECIPE and not name.startswith("train.")}


def _agreeing(runs: pd.DataFrame, by: list[str], name: str, hint: str = "") -> pd.DataFrame:
    """Per group of `by` the runs that contradict nothing in the most frequent settings; the column `name` holds them.
    `hint` ends the note where there are too many others to name."""
    kept: list[pd.DataFrame] = []
    left_out: list[tuple[int, str]] = []
    for key, panel in groups(runs, by):
        chosen = most_frequent(panel, name)
        differing: list[str] = []
        for text, count in Counter(panel[name]).items():
            if changed := contradictions(other := json.loads(text), chosen):
                differing.append(text)
                left_out.append((count, _left_out(dict(zip(by, key, strict=True)), count, other, changed)))
        kept.append(where(panel, ~panel[name].isin(differing)))
    _say(left_out, hint)
    return pd.concat(kept, ignore_index=True)


def most_frequent(panel: pd.DataFrame, name: str = "settings") -> Settings:
    """The settings of most runs; the most recent ones where two are equally frequent."""
    recent_first = panel.sort_values("finished", ascending=False)[name].tolist()
    return json.loads(Counter(recent_first).most_common(1)[0][0])


def contradictions(one: Settings, other: Settings) -> list[str]:
    """The names of settings that differ; a whole part (`train.`) that one of them lacks contradicts nothing."""
    parts = _parts(one) & _parts(other)
    names = sorted(name for name in one.keys() | other.keys() if name.split(".")[0] in parts)
    return [name for name in names if one.get(name) != other.get(name)]


def without_repeats(runs: pd.DataFrame) -> pd.DataFrame:
    """The latest of runs that agree in arm, sizes, seed and settings: options of an arm that no figure compares."""
    latest = runs.sort_values("finished", kind="stable").drop_duplicates(_REPEATED, keep="last").sort_index()
    if len(latest) < len(runs):
        print(f"note: {len(runs) - len(latest)} run(s) that repeat a cell and seed left out", file=sys.stderr)
    return latest.reset_index(drop=True)


def _parts(settings: Settings) -> set[str]:
    return {name.split(".")[0] for name in settings}


def _left_out(place: dict[str, Any], count: int, other: Settings, changed: list[str]) -> str:
    at = ", ".join([str(place.pop("model")), *(f"{name} {value}" for name, value in place.items())])
    how = ", ".join(f"{name}={other.get(name)}" for name in changed)
    return f"{count} run(s) of {at} with other settings left out ({how})"


def _say(left_out: list[tuple[int, str]], hint: str) -> None:
    """A note each; of a search, where every run has settings of its own, the first few and how many more."""
    for _, said in left_out[:_SHOWN]:
        print(f"note: {said}", file=sys.stderr)
    if more := sum(count for count, _ in left_out[_SHOWN:]):
        print(f"note: {more} more run(s) with other settings left out{hint}", file=sys.stderr)
