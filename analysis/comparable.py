"""Which runs may stand in one figure: those that differ in nothing but what the figure compares."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any, cast

import pandas as pd

_REPEATED = ["model", "layer", "n", "arm", "k", "d", "n_latents", "degree", "value_bits", "seed", "settings"]

Settings = dict[str, object]


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that may be drawn together: per (model, layer, n) those of the most frequent `settings`.

    A trial with fewer steps or another text must not be averaged with the sweep as if it were one more seed; what is
    left out is said on standard error, with the settings that differ. A run that was not trained (its record names no
    recipe) goes with any recipe. Of runs that repeat a cell and seed, the latest is kept.
    """
    kept: list[pd.DataFrame] = []
    for key, panel in runs.groupby(["model", "layer", "n"]):
        chosen = most_frequent(panel)
        differing: Counter[str] = Counter()
        for text, count in Counter(panel["settings"]).items():
            if contradictions(json.loads(text), chosen):
                differing[text] += count
        for text, count in differing.items():
            _say_left_out(cast(tuple[Any, ...], key), count, json.loads(text), chosen)
        kept.append(cast(pd.DataFrame, panel[~panel["settings"].isin(list(differing))]))
    return without_repeats(pd.concat(kept, ignore_index=True))


def most_frequent(panel: pd.DataFrame) -> Settings:
    """The settings of most runs; the most recent ones where two are equally frequent."""
    recent_first = panel.sort_values("finished", ascending=False)["settings"].tolist()
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


def _say_left_out(key: tuple[Any, ...], count: int, other: Settings, chosen: Settings) -> None:
    changed = ", ".join(f"{name}={other.get(name)}" for name in contradictions(other, chosen))
    model, layer, n = key
    where = f"{model}, layer {layer}, n {n}"
    print(f"note: {count} run(s) of {where} with other settings left out ({changed})", file=sys.stderr)
