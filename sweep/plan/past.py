"""What finished runs say about time. Runs of another backend, device, torch or number of threads say nothing.

Those that shared their machine with others say what that cost too, which no probe does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from sae_core.regrow import SupportSchedule
from sae_core.storage import FROM_SEED, NO_SUPPORT, Layout
from sweep.plan.steps import Cell, Known, Setup, cell_of
from sweep.plan.workload import CONTEXTS, EXAMINED, NOVELTY, steps_of
from sweep.store.records import COMPLETE, RECOVERY, Record, iterate_records

Evaluations = dict[tuple[Cell, frozenset[str]], list[float]]  # seconds, by what was asked of which cell


class Recovered(NamedTuple):
    backend: str
    spec: dict[str, Any]  # less its seed
    seconds: float


class Past(NamedTuple):
    """Of complete runs."""

    steps: dict[Setup, dict[Cell, Known]]  # median seconds of a training step
    fits: dict[tuple[Setup, str, Cell], list[float]]  # seconds, where an arm's parameters are not found by gradient
    evaluations: dict[tuple[Setup, tuple[str, int]], Evaluations]  # by the LM's hash and the held-out windows
    recoveries: list[Recovered]


def past(folders: Iterable[Path]) -> Past:
    """Of the run stores at `folders`."""
    steps: dict[Setup, dict[Cell, list[float]]] = {}
    found = Past({}, {}, {}, [])
    for record in (record for folder in folders for _, record in iterate_records(folder)):
        if record is None or record["status"] != COMPLETE:
            continue
        try:
            if record.get("kind") == RECOVERY:
                found.recoveries.append(_recovered(record))
                continue
            setup, cell, done = setup_in(record), cell_in(record), record["training"]
            if done["steps"]:
                steps.setdefault(setup, {}).setdefault(cell, []).append(done["seconds"] / _steps(record, cell))
            else:
                found.fits.setdefault((setup, record["labels"]["arm"], cell), []).append(done["seconds"])
            text = record["spec"]["activations"]["lm"], record["spec"]["eval"]["windows"]
            evaluations = found.evaluations.setdefault((setup, text), {})
            evaluations.setdefault((cell, _asked(record)), []).append(record["timings"]["evaluation"])
        except (KeyError, TypeError):  # an older record, which does not say
            continue
    for setup, cells in steps.items():
        found.steps[setup] = {cell: Known(median(seconds), said(len(seconds))) for cell, seconds in cells.items()}
    return found


def said(records: int) -> str:
    return f"{records} record{'s' * (records > 1)}"


def setup_in(record: Record) -> Setup:
    """How the run ran."""
    device, backend, version = record["config"]["device"], record["versions"]["backend"], record["versions"]["torch"]
    maybe = device == "auto" and "+cpu" not in version and backend not in ("cpu", "reference")
    cuda = backend == "gpu" or device.startswith("cuda") or maybe
    return Setup(backend, cuda, record["inference"]["encoder"]["cost"]["threads"], version)


def cell_in(record: Record) -> Cell:
    """The cell that the run's arm has."""
    sizes, counts, spec = record["sizes"], record["storage"], record["spec"]
    n, degree, d_in = sizes["n_latents"], sizes["degree"], sizes["d_in"]
    values = counts["learned_decoder_values"]
    pursuit = spec["sae"].get("of", spec["sae"]).get("encoder", "topk")
    layout = Layout(
        d_in,
        n,
        degree,
        support=FROM_SEED if counts["index_bits"] else NO_SUPPORT,
        value_bits=counts.get("value_bits", 32 if values else 0),
        own_encoder=counts["learned_parameters"] > values + n + d_in,
        pursuit=None if pursuit == "topk" else pursuit,
    )
    return cell_of(layout, sizes["k"], spec["train"]["batch_size"])


def _steps(record: Record, cell: Cell) -> float:
    """As `steps_of`."""
    described, schedule = record["spec"]["sae"], None
    if "exchanged" in record["training"] or "until" in described:
        schedule = SupportSchedule(*(described[key] for key in ("every", "drop", "until", "tokens")))
    return steps_of(record["training"]["steps"], cell.batch, cell.layout.degree, schedule)


def _asked(record: Record) -> frozenset[str]:
    how = record["config"]["eval"]
    also = {NOVELTY: how["novelty"], CONTEXTS: how["contexts"], EXAMINED: True}
    return frozenset({*how["inference"], *(name for name, wanted in also.items() if wanted)})


def _recovered(record: Record) -> Recovered:
    spec = {key: value for key, value in record["spec"].items() if key != "seed"}
    return Recovered(record["versions"]["backend"], spec, record["timings"]["total"])
