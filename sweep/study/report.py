"""Write a study's trials and its Pareto set as CSV files, and print the table that ends a search."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console
from rich.table import Table

from sweep.store.files import replaced
from sweep.store.human_size import human_size
from sweep.study.config import SearchConfig
from sweep.study.controller import Owner
from sweep.study.front import aims_of, pareto_set
from sweep.study.search import Search
from sweep.study.trials import FINISHED, others, whose

PARETO, TRIALS = "pareto.csv", "trials.csv"
# Columns of the CSV files: which run a trial is, what was found, how the trial ended, and why.
_WHICH = ("run_id", "trial", "arm", "d", "k", "n", "layer", "seed")
_FOUND = ("stored_bytes", "learned_decoder_values", "ce_recovered", "delta_ce")
_ENDED = ("state", "value", "seconds", "from_store", "draw", "retry_of")
_WHY = ("reason", "error", "freed", "given_back", "dropped_at", "dropped", "host", "pid")
_SHOWN = 10  # rows at either end of a long Pareto set that the terminal's table shows


def write_results(folder: Path, trials: Sequence[FrozenTrial], names: Sequence[str], config: SearchConfig) -> None:
    """Write `pareto.csv` and `trials.csv` of a study to `folder`, each whole or not at all.

    Args:
        names: the parameters that are searched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own, found = [name for name in names if name not in _WHICH], [*_FOUND, *_further(config)]
    best = pareto_set(trials, config)
    _write(folder / PARETO, [*_WHICH, *own, *found], [_row(trial) for trial in best])
    _write(folder / TRIALS, [*_WHICH, *own, *found, *_ENDED, *_WHY], [_row(trial) for trial in trials])


def print_results(to_do: Search, console: Console | None = None) -> None:
    """Print the Pareto set, and what became of all trials."""
    asking = to_do.asking
    trials = asking.study.get_trials(deepcopy=False)
    best = pareto_set(trials, asking.config)
    own = [name for name in asking.space.distributions if name not in (*_WHICH, "sae")]
    further = _further(asking.config)
    wide = 130 + 12 * len(own) + sum(len(name) + 3 for name in further)
    console = console or Console(highlight=False, width=max(Console().width, wide))
    if best:
        console.print(_table(best, own, further))
    for line in _summary(to_do, trials):
        console.print(line, markup=False, soft_wrap=True)
    if best:
        line = f"Pareto set of {len(best)} run{'s' * (len(best) > 1)}: {to_do.folder / PARETO}"
        console.print(line, markup=False, soft_wrap=True)


def _summary(to_do: Search, trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the lines that say what became of all trials."""
    asking, tally = to_do.asking, to_do.tally
    states = Counter(trial.state for trial in trials)
    marked = {key: [t.user_attrs[key] for t in trials if key in t.user_attrs] for key in ("reason", "error")}
    finished = sum(states[state] for state in FINISHED)
    target = f" of {asking.config.n_trials}" if asking.config.n_trials else ""
    words = [f"study {asking.study.study_name}: {finished}{target} trials complete"]
    runs = {trial.user_attrs.get("run_id") for trial in trials if trial.state in FINISHED}
    words += [f"{states[TrialState.PRUNED]} of them dropped"] if states[TrialState.PRUNED] else []
    words += [f"{len(runs)} different runs"] if 0 < len(runs) < finished else []
    words += [f"{len(marked['error'])} failed"] if marked["error"] else []
    words += [f"{len(marked['reason'])} left out"] if marked["reason"] else []
    words += [f"{tally.from_store} taken from the run store in this launch"] if tally.from_store else []
    lines = [", ".join(words)]
    lines += _grouped("failed", marked["error"]) + _grouped("left out", marked["reason"])
    unknown = others(asking, Owner.UNKNOWN)
    if unknown:
        lines.append(
            f"{len(unknown)} trial(s) of another run store count as running, the first {unknown[0].number} of "
            f"{whose(unknown[0])}; if that controller is dead: optuna tell --storage ... --study-name "
            f"{asking.study.study_name} --trial-number {unknown[0].number} --state fail"
        )
    return lines


def _grouped(what: str, reasons: Sequence[str]) -> list[str]:
    """Return a line for each kind of reason; reasons that differ only in their numbers are of one kind."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(re.sub(r"\d[\d,]*(\.\d+)?", "#", reason), []).append(reason)
    return [
        f"{what}: {alike[0]}" + (f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else "")
        for alike in sorted(kinds.values(), key=len, reverse=True)
    ]


def _further(config: SearchConfig) -> list[str]:
    """Return the objectives that have no column in any case."""
    return [name for name in aims_of(config) if name not in _FOUND]


def _table(best: Sequence[FrozenTrial], own: Sequence[str], further: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ["run", "trial", "arm", "d", "k", "n", "layer", "seed", *own]
    for column in [*columns, "stored", "values", "CE recovered", "delta CE", *further, "seconds"]:
        table.add_column(column, justify="left" if column in ("run", "arm") else "right", no_wrap=True)
    for trial in _ends(best):
        if trial is None:
            table.add_row("...")
            continue
        marks = trial.user_attrs
        cells = [marks["run_id"], str(trial.number), *(str(marks[key]) for key in _WHICH[2:])]
        cells += [_short(trial.params.get(name)) for name in own]
        cells += [human_size(marks["stored_bytes"]), str(marks["learned_decoder_values"])]
        cells += [_four_places(marks.get(name)) for name in ("ce_recovered", "delta_ce", *further)]
        cells.append(f"{marks['seconds']:.1f}")
        table.add_row(*cells)
    return table


def _ends(best: Sequence[FrozenTrial]) -> list[FrozenTrial | None]:
    """Return the first and the last trials with None for those between, or all where they are few."""
    if len(best) <= 2 * _SHOWN:
        return list(best)
    return [*best[:_SHOWN], None, *best[-_SHOWN:]]


def _row(trial: FrozenTrial) -> dict[str, Any]:
    value = trial.values[0] if trial.values and len(trial.values) == 1 else None
    own: Mapping[str, Any] = {"trial": trial.number, "state": trial.state.name.lower(), "value": value}
    return {**trial.params, **trial.user_attrs, **own}


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with replaced(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)


def _four_places(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
