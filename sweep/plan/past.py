"""Read from finished runs how long their training and evaluation took.

Times are kept apart by backend, device, torch version and number of threads (`sweep.plan.steps.Setup`). The times of
runs that shared their machine with other runs include what the sharing cost, which no probe measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from sae_core.arms.base import BATCH_TOPK, ONE_SHOT, TOPK
from sae_core.arms.compressed import OWN, Compressed
from sae_core.arms.dense_low_rank import low_rank_basis
from sae_core.bases import NEURONS
from sae_core.kronecker import Heads
from sae_core.prefixes import prefix_sizes
from sae_core.regrow import SupportSchedule
from sae_core.storage import FROM_SEED, NO_SUPPORT, Layout
from sweep.plan.steps import MeasuredStep, Setup, StepShape, shape_of
from sweep.plan.workload import equivalent_steps, measurements
from sweep.store.records import COMPLETE, RECOVERY, Record, iterate_records

Evaluations = dict[tuple[StepShape, frozenset[str]], list[float]]  # seconds, by the SAE's shape and what was measured


class PastRecovery(NamedTuple):
    """A synthetic recovery experiment that has been carried out."""

    backend: str
    spec: dict[str, Any]  # without its seed
    seconds: float


class Past(NamedTuple):
    """The times of complete runs."""

    steps: dict[Setup, dict[StepShape, MeasuredStep]]  # the median time of a training step
    fits: dict[tuple[Setup, str, StepShape], list[float]]  # seconds by arm, of arms that are not trained by gradient
    evaluations: dict[tuple[Setup, tuple[str, int]], Evaluations]  # keyed by the LM's hash and the held-out windows
    recoveries: list[PastRecovery]


def read_past(folders: Iterable[Path]) -> Past:
    """Return the times of the complete runs in the run stores `folders`; records damaged or too old are skipped."""
    steps: dict[Setup, dict[StepShape, list[float]]] = {}
    found = Past({}, {}, {}, [])
    for record in (record for folder in folders for _, record in iterate_records(folder)):
        if record is None or record["status"] != COMPLETE:
            continue
        try:
            if record.get("kind") == RECOVERY:
                found.recoveries.append(_recovery_in(record))
                continue
            setup, shape, training = setup_in(record), shape_in(record), record["training"]
            if training["steps"]:
                a_step = training["seconds"] / _steps_in(record, shape)
                steps.setdefault(setup, {}).setdefault(shape, []).append(a_step)
            else:
                found.fits.setdefault((setup, record["labels"]["arm"], shape), []).append(training["seconds"])
            if "pass" not in record.get("lm", {}):  # an older record: its LM ran as a whole, twice a reading
                continue
            text = record["spec"]["activations"]["lm"], record["spec"]["eval"]["windows"]
            evaluations = found.evaluations.setdefault((setup, text), {})
            evaluations.setdefault((shape, _measured_in(record)), []).append(record["timings"]["evaluation"])
        except (KeyError, TypeError):  # an older record, which does not say
            continue
    for setup, taken in steps.items():
        found.steps[setup] = {s: MeasuredStep(median(each), counted_records(len(each))) for s, each in taken.items()}
    return found


def counted_records(count: int) -> str:
    """Return `1 record` or `3 records`, the origin of an estimate that is made from so many."""
    return f"{count} record{'s' * (count > 1)}"


def setup_in(record: Record) -> Setup:
    """Return how the run of `record` computed."""
    device, backend, version = record["config"]["device"], record["versions"]["backend"], record["versions"]["torch"]
    maybe = device == "auto" and "+cpu" not in version and backend not in ("cpu", "reference")
    cuda = backend == "gpu" or device.startswith("cuda") or maybe
    return Setup(backend, cuda, record["inference"]["encoder"]["cost"]["threads"], version)


def shape_in(record: Record) -> StepShape:
    """Return the shape of the training steps of `record`'s run."""
    sizes, counts, spec = record["sizes"], record["storage"], record["spec"]
    n, degree, d_in = sizes["n_latents"], sizes["degree"], sizes["d_in"]
    values = counts["learned_decoder_values"]
    arm, rounded_in = spec["sae"], NEURONS
    while "of" in arm and arm["arm"] != Compressed.name:  # of which the SAE that it was made of says nothing
        rounded_in = arm.get("rounded_in", rounded_in)
        arm = arm["of"]
    encoder = arm.get("encoder", TOPK)
    layout = Layout(
        d_in,
        n,
        degree,
        support=FROM_SEED if counts["index_bits"] else NO_SUPPORT,
        value_bits=counts.get("value_bits", 32 if values else 0),
        own_encoder=counts["learned_parameters"] > values + n + d_in + 1,
        encoder_bits=counts.get("encoder_bits") or 32,  # missing from older records, 0 where there is no such encoder
        heads=Heads(arm["base"], arm["extension"]) if "extension" in arm else None,
        pursuit=None if encoder in (*ONE_SHOT, OWN) else encoder,
        batch_topk=encoder == BATCH_TOPK,
        prefixes=prefix_sizes(spec["sae"].get("prefixes", ()), n),
        basis=_basis_in(arm, counts["index_bits"] > 0, rounded_in),
    )
    return shape_of(layout, sizes["k"], spec["train"]["batch_size"])


def _basis_in(arm: Record, sparse: bool, rounded_in: str) -> str:
    """Return the basis of the arm that a record's spec describes; of dense atoms that which they are rounded in."""
    if "rank" in arm:
        return low_rank_basis(arm["rank"])
    return arm.get("basis", NEURONS) if sparse else rounded_in  # a dense one may only be as large as one in a basis


def _steps_in(record: Record, shape: StepShape) -> float:
    """Return how many plain steps would have taken as long as the training of `record`."""
    sae, schedule = record["spec"]["sae"], None
    arm = sae.get("of", sae)
    if "exchanged" in record["training"] or "until" in arm:
        schedule = SupportSchedule(*(arm[key] for key in ("every", "drop", "until", "tokens")))
    return equivalent_steps(record["training"]["steps"], shape.batch, shape.layout.degree, schedule)


def _measured_in(record: Record) -> frozenset[str]:
    asked = record["config"]["eval"]
    return measurements(asked["inference"], asked["novelty"], asked["contexts"], asked.get("probing", ()))


def _recovery_in(record: Record) -> PastRecovery:
    spec = {key: value for key, value in record["spec"].items() if key != "seed"}
    return PastRecovery(record["versions"]["backend"], spec, record["timings"]["total"])
