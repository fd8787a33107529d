"""Replay the pruner `frontier` on finished runs: what would it have dropped, what saved, and what lost of the front?

    python -m tests.benchmarks.pruning                               on the records that ship: a minute
    python -m tests.benchmarks.pruning RUNS/studies/NAME/trials.csv  on a search that dropped nothing, in its own order

Writes tests/benchmarks/results/pruning.md, or prints the table of the search. A run that would have been dropped costs
the training up to that point, and any other its training and evaluation. What is lost of the front is, at the size of
each of its SAEs, how much more CE recovered it has than the best one of at most that size which was not dropped.
"""

from __future__ import annotations

import csv
import json
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analysis.read.load import read_records
from sweep.store.records import Record, read_record
from sweep.study.curves import front_curve
from sweep.study.front_rule import FrontRule, OnFront, why_dropped

RESULTS = Path(__file__).parent / "results" / "pruning.md"
ORDERS = 8  # random orders in which shipped runs are replayed
SHIPPED = {"embedded": 1, "smollm2": 12}  # records that ship: the layer that has most of them
RULES = [FrontRule(share, margin) for share in (0, 0.25, 0.5, 1) for margin in (0, 0.05, 0.1)]
NOTICED = 0.002  # a loss of CE recovered that seeds do not explain


class Run(NamedTuple):
    """A finished run, as the rule sees it."""

    seen: OnFront
    alike: str  # the same for runs whose curves can be compared, see `sweep.study.curves.alike`
    recovered: float
    training: float  # seconds
    evaluation: float
    one_shot: bool


class Replayed(NamedTuple):
    """What the rule does to a sequence of runs."""

    time: float  # share of the seconds that all runs take
    dropped: float  # share of the runs
    losses: list[float]  # of CE recovered, at each SAE of the whole front


def run_of(record: Record) -> Run | None:
    """Return a record as a run; None for one without a curve or without CE recovered."""
    curve, recovered = dict(front_curve(record)), record["metrics"].get("ce_recovered")
    if not curve or recovered is None:
        return None
    spec, arm = record["spec"], record["labels"]["arm"]
    rounded = [spec["sae"].get(key) for key in ("bits", "rounded_from")] if arm.endswith("_trained") else None
    kind = [spec["activations"], spec["train"]["steps"], spec["train"]["batch_size"], rounded, record.get("source")]
    timings = record["timings"]
    return Run(
        OnFront(record["storage"]["artifact_bytes"], curve),
        json.dumps(kind[:-1] + [kind[-1] and kind[-1].get("tokens")], sort_keys=True),
        recovered,
        timings["training"],
        timings["evaluation"],
        "+" not in arm,
    )


def front(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that no other one betters in stored bytes and CE recovered, the smallest first."""
    kept: list[Run] = []
    for run in sorted(runs, key=lambda run: (run.seen.stored_bytes, -run.recovered)):
        if not kept or run.recovered > kept[-1].recovered:
            kept.append(run)
    return kept


def replayed(runs: Sequence[Run], rule: FrontRule) -> Replayed:
    """Replay a search that has these runs in this order, one after the other."""
    kept: list[Run] = []
    seconds = 0.0
    for run in runs:
        known = [other.seen for other in front(kept) if other.alike == run.alike]
        curve = sorted(run.seen.fvu.items())
        stop = next((p for p, fvu in curve if why_dropped(run.seen.stored_bytes, p, fvu, known, rule)), None)
        if stop is None:
            kept.append(run)
        seconds += run.training + run.evaluation if stop is None else run.training * stop / 100
    best = front(kept)
    losses = [max(0.0, run.recovered - _best_within(best, run.seen.stored_bytes)) for run in front(runs)]
    whole = sum(run.training + run.evaluation for run in runs)
    return Replayed(seconds / whole, 1 - len(kept) / len(runs), losses)


def _best_within(front: Sequence[Run], stored_bytes: int) -> float:
    return max((run.recovered for run in front if run.seen.stored_bytes <= stored_bytes), default=0.0)


def rows_of(orders: Sequence[Sequence[Run]]) -> Iterator[str]:
    """Yield a table of what each rule does, the mean over orders."""
    yield f"| share | margin | time | dropped | front kept | losses over {NOTICED:g} | largest loss |"
    yield "|---|---|---|---|---|---|---|"
    for rule in RULES:
        found = [replayed(runs, rule) for runs in orders]
        losses = [loss for one in found for loss in one.losses]
        time, dropped = (statistics.mean(values) for values in zip(*(one[:2] for one in found), strict=True))
        cells = [f"{rule.share:g}", f"{rule.margin:g}", f"{100 * time:.0f} %", f"{100 * dropped:.0f} %"]
        cells += [f"{sum(loss == 0 for loss in losses)} of {len(losses)}", str(sum(loss > NOTICED for loss in losses))]
        yield f"| {' | '.join([*cells, f'{max(losses):.4f}'])} |"


def spread_lines(records: Sequence[Record]) -> Iterator[str]:
    """Yield how far FVU spreads over seeds, as shares of its mean, in settings that have three seeds or more."""
    settings: dict[str, list[Mapping[int, float]]] = defaultdict(list)
    for record in records:
        if curve := dict(front_curve(record)):
            spec: dict[str, Any] = {key: value for key, value in record["spec"].items() if not key.startswith("seed")}
            settings[json.dumps(spec, sort_keys=True)].append(curve)
    several = [curves for curves in settings.values() if len(curves) >= 3]
    for percent in (25, 50, 75, 100):
        values = [[curve[percent] for curve in curves if percent in curve] for curves in several]
        spreads = sorted(statistics.stdev(fvu) / statistics.mean(fvu) for fvu in values if len(fvu) >= 3)
        half, most = spreads[len(spreads) // 2], spreads[int(0.95 * len(spreads))]
        yield f"| {percent} % | {len(spreads)} | {100 * half:.1f} % | {100 * most:.1f} % |"


def of_shipped_records() -> Iterator[str]:
    """Yield the lines of the results file."""
    yield "# The pruner `frontier`, replayed\n"
    yield "`python -m tests.benchmarks.pruning`: the rule on curves of finished runs, each run's own seconds counted.\n"
    for name, layer in SHIPPED.items():
        records = [record for record in read_records(name) if record["axes"].get("layer") == layer]
        runs = [run for run in map(run_of, records) if run is not None]
        for title, chosen in (("every arm", runs), ("one-shot arms", [run for run in runs if run.one_shot])):
            yield f"## {name}, {title}\n"
            yield f"{len(chosen)} runs in {ORDERS} random orders; {len(front(chosen))} of them are the front.\n"
            yield from rows_of([random.Random(seed).sample(chosen, len(chosen)) for seed in range(ORDERS)])
            yield ""
        yield f"## {name}, spread of FVU over seeds\n"
        yield "Standard deviation over seeds as a share of the mean, over settings with three seeds or more.\n"
        yield "| of training | settings | median | 95th percentile |\n|---|---|---|---|"
        yield from spread_lines(records)
        yield ""


def of_search(trials: Path) -> Iterator[str]:
    """Yield the table of a finished search, from the file that it leaves in RUNS/studies/NAME."""
    store = trials.absolute().parents[2]
    with open(trials, newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: int(row["trial"]))
    ids = dict.fromkeys(row["run_id"] for row in rows if row["state"] == "complete")
    records = [record for run_id in ids if (record := read_record(store, run_id)) is not None]
    runs = [run for run in map(run_of, records) if run is not None]
    yield f"{len(runs)} runs of {trials}; {len(front(runs))} of them are the front.\n"
    yield from rows_of([runs])


def main(arguments: list[str]) -> None:
    if arguments:
        print("\n".join(of_search(Path(arguments[0]))))
        return
    RESULTS.write_text("\n".join(of_shipped_records()).rstrip() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
