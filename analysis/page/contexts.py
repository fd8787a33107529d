"""The page's section of latents' top contexts: some latents of a few runs, spread over firing rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.contexts import Latent, read_contexts
from analysis.frames import dicts
from analysis.page.encode import plain_value
from analysis.read.load import say_unreadable
from analysis.read.sources import NoRunsError
from sweep.store.records import CONTEXTS

RUNS, LATENTS, PER_LATENT = 8, 40, 5  # at most: runs, latents of each run, contexts of each latent


def contexts_section(runs: pd.DataFrame, folder: Path | None, place: dict[str, int]) -> dict[str, Any]:
    """Return at most RUNS runs, with LATENTS latents of each and PER_LATENT contexts of each latent.

    Args:
        folder: the folder of runs; None where the records lie in no folder.
        place: the row of each run id in the page's run table.

    Raises:
        NoRunsError: no run kept contexts that can be read.
    """
    kept = [run for run in dicts(runs) if folder and (folder / run["run_id"] / CONTEXTS).is_file()]
    best = first_of_each_arm(kept)[:RUNS]
    shown = [latents for run in best if folder and (latents := _latents_of(folder, run["run_id"], place))]
    if not shown:
        raise NoRunsError(
            "contexts are files in the folders of runs, and none is here: python -m sweep.evaluate run=all "
            "eval.contexts=5 makes them, --runs FOLDER shows them"
        )
    how = (
        f"Held-out text around the tokens where a latent is strongest; the stronger it fires, the stronger the mark. "
        f"{len(shown)} of {len(kept)} run(s) that kept contexts: of each arm the one with the highest CE recovered "
        f"first; of each at most {LATENTS} latents, spread over firing rates. python -m analysis latents run=ID "
        f"has all."
    )
    return {"kind": "contexts", "how": how, "of": shown}


def first_of_each_arm(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort runs by CE recovered so that the best run of each arm comes before any second one."""
    best = sorted(runs, key=lambda run: (-run["ce_recovered"], run["run_id"]))
    seen: dict[str, int] = {}
    ranked: list[tuple[int, dict[str, Any]]] = []
    for run in best:
        seen[run["arm"]] = seen.get(run["arm"], -1) + 1
        ranked.append((seen[run["arm"]], run))
    return [run for _, run in sorted(ranked, key=lambda pair: pair[0])]


def _latents_of(folder: Path, run_id: str, place: dict[str, int]) -> dict[str, Any] | None:
    """Return the latents of a run as `static/contexts.js` reads them, or None where its file cannot be read."""
    try:
        found = list(read_contexts(folder, run_id))
    except NoRunsError as error:
        say_unreadable(f"run {run_id}: {CONTEXTS}", error)
        return None
    texts: dict[str, int] = {}
    latents = [_compact(latent, texts) for latent in spread(found, LATENTS)]
    return {"run": place[run_id], "live": len(found), "texts": list(texts), "latents": latents} if latents else None


def spread(latents: list[Latent], count: int) -> list[Latent]:
    """Return at most `count` latents, evenly spread over the order of firing rates, the most frequent first."""
    order = sorted(latents, key=lambda latent: -latent["firing_rate"])
    if len(order) <= count:
        return order
    return [order[round(i * (len(order) - 1) / (count - 1))] for i in range(count)]


def _compact(latent: Latent, texts: dict[str, int]) -> list[Any]:
    """Return [latent, firing rate, [[places of its tokens in `texts`, codes], ...]], adding new tokens to `texts`."""
    contexts = [
        [[texts.setdefault(token, len(texts)) for token in context["tokens"]], plain_value(context["codes"], 3)]
        for context in latent["contexts"][:PER_LATENT]
    ]
    return [latent["latent"], latent["firing_rate"], contexts]
