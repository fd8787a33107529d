"""The choice of runs that may stand in one figure: they differ in nothing but the things that the figure compares."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import pandas as pd

from analysis.frames import groups, where

_REPEATED = ["model", "layer", "n", "arm", "k", "d", "n_latents", "degree", "value_bits", "seed", "settings"]

_RECIPE = ("activations.tokens", "activations.dtype", "activations.seed")  # with `train.*`, the settings of training
# The settings that say which tokens are trained on, replaced and measured; the second is absent where all are.
_TOKENS = ("eval.mask_policy", "activations.outlier_norm")
ALL_TOKENS = (
    "all_tokens"  # the mask policy of the paper: attention sinks and special tokens are treated like all others
)
_NOTES = 5  # how many notes name the runs left out, before further ones are only counted
_VALUES = 4  # how many values of a setting a note names
# By the place and the names of the settings that differ there: how many runs have which values of these.
LeftOut = dict[tuple[str, tuple[str, ...]], list[tuple[int, list[str]]]]

Settings = dict[str, object]


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that may be drawn together: per (model, layer, n) those with the most frequent `settings`.

    All runs of a model, at any layer and n, are about the same tokens: ordinary ones, or all. A quick run with fewer
    steps, or one on another text, must not be averaged with the sweep as if it were one more seed. Standard error says
    how many runs are left out and which settings differ. A run that was not trained (its record names no recipe) goes
    with any recipe. Of runs with the same arm, sizes, seed and settings, the latest is kept.
    """
    hint = "; python -m analysis pareto includes runs of every training recipe"
    return without_repeats(_agreeing(_about_the_same_tokens(runs), ["model", "layer", "n"], "settings", hint))


def measured_alike(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose measures mean the same, however they were trained.

    These are per (model, layer) the runs whose LM, text and evaluation are the most frequent ones. Standard error says
    how many are left out.
    """
    measured = {text: json.dumps(_without_recipe(json.loads(text)), sort_keys=True) for text in set(runs["settings"])}
    runs = _about_the_same_tokens(runs)
    found = runs.assign(measured=[measured[text] for text in runs["settings"]])
    return _agreeing(found, ["model", "layer"], "measured").drop(columns="measured")


def of_the_usual_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return per kind of features, n and k the rows whose seeds of single parts are the most frequent: mostly none.

    Standard error says how many are left out.

    Args:
        rows: `analysis.read.records.Records.samples`.
    """
    seeds = {text: {k: v for k, v in json.loads(text).items() if k.startswith("seeds.")} for text in rows["settings"]}
    found = rows.assign(seeds=[json.dumps(seeds[text], sort_keys=True) for text in rows["settings"]])
    return _agreeing(found, ["model", "features", "n", "k"], "seeds").drop(columns="seeds")


def of_the_usual_recipe(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return per (model, place, n) the pairs with the most frequent `settings`; standard error says what is left out.

    Args:
        pairs: `analysis.read.records.Records.pairs`.
    """
    return _agreeing(pairs, ["model", "place", "n"], "settings")


def _about_the_same_tokens(runs: pd.DataFrame) -> pd.DataFrame:
    """Return per model the runs over the tokens that most of its runs are over; standard error says which are not."""
    about = {text: json.dumps(_tokens(json.loads(text)), sort_keys=True) for text in set(runs["settings"])}
    found = runs.assign(about=[about[text] for text in runs["settings"]])
    return _agreeing(found, ["model"], "about").drop(columns="about")


def _tokens(settings: Settings) -> Settings:
    return {name: settings[name] for name in _TOKENS if name in settings}


def _without_recipe(settings: Settings) -> Settings:
    of_training = ("train.", "seeds.")
    return {name: value for name, value in settings.items() if name not in _RECIPE and not name.startswith(of_training)}


def _agreeing(runs: pd.DataFrame, by: list[str], name: str, hint: str = "") -> pd.DataFrame:
    """Return per group of `by` the runs whose settings contradict nothing in the group's most frequent ones.

    Args:
        name: the column that holds the settings, as JSON.
        hint: the end of the note where more runs are left out than the notes name.
    """
    kept: list[pd.DataFrame] = []
    left_out: LeftOut = {}
    for key, panel in groups(runs, by):
        usual = most_frequent(panel, name)
        differing: list[str] = []
        for text, count in Counter(panel[name]).items():
            other = json.loads(text)
            if changed := contradictions(other, usual):
                differing.append(text)
                about = _place(dict(zip(by, key, strict=True))), tuple(changed)
                left_out.setdefault(about, []).append((count, [str(other.get(name)) for name in changed]))
        kept.append(where(panel, ~panel[name].isin(differing)))
    _print_notes(left_out, hint)
    return pd.concat(kept, ignore_index=True)


def most_frequent(panel: pd.DataFrame, name: str = "settings") -> Settings:
    """Return the settings that most runs of `panel` have; of equally frequent ones the most recent."""
    recent_first = panel.sort_values("finished", ascending=False)[name].tolist()
    return json.loads(Counter(recent_first).most_common(1)[0][0])


def contradictions(one: Settings, other: Settings) -> list[str]:
    """Return the names of the settings that differ; a whole part (`train.`) that one side lacks contradicts nothing."""
    parts = _parts(one) & _parts(other)
    names = sorted(name for name in one.keys() | other.keys() if name.split(".")[0] in parts)
    return [name for name in names if one.get(name) != other.get(name)]


def without_repeats(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the latest of the runs that agree in arm, sizes, seed and settings.

    Such runs differ only in options of the arm that no figure compares. Standard error says how many are left out.
    """
    latest = runs.sort_values("finished", kind="stable").drop_duplicates(_REPEATED, keep="last").sort_index()
    if len(latest) < len(runs):
        print(f"note: {len(runs) - len(latest)} run(s) that repeat a cell and seed left out", file=sys.stderr)
    return latest.reset_index(drop=True)


def _parts(settings: Settings) -> set[str]:
    return {name.split(".")[0] for name in settings}


def _place(place: dict[str, Any]) -> str:
    return ", ".join([str(place.pop("model")), *(f"{name} {value}" for name, value in place.items())])


def _either(distinct: list[str]) -> str:
    return " or ".join(distinct[:_VALUES]) + (f" or {len(distinct) - _VALUES} more" if len(distinct) > _VALUES else "")


def _print_notes(left_out: LeftOut, hint: str) -> None:
    """Print a note for each of the first places and settings, then how many runs the others are about.

    In a search every run has settings of its own: a note for each would be hundreds, and so would all of their values.
    """
    notes = list(left_out.items())
    for (place, names), found in notes[:_NOTES]:
        count = sum(runs for runs, _ in found)
        values = [list(dict.fromkeys(each)) for each in zip(*(each for _, each in found), strict=True)]
        how = ", ".join(f"{name}={_either(distinct)}" for name, distinct in zip(names, values, strict=True))
        rest = hint if max(map(len, values)) > _VALUES else ""
        print(f"note: {count} run(s) of {place} with other settings left out ({how}){rest}", file=sys.stderr)
    if more := sum(count for _, found in notes[_NOTES:] for count, _ in found):
        print(f"note: {more} more run(s) with other settings left out{hint}", file=sys.stderr)
