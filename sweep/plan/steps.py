"""Tell how long a training step takes here: measured in finished runs or by a short probe, or scaled from either."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from sae_core.arms.base import BATCH_TOPK
from sae_core.bases import basis_name, make_basis
from sae_core.dictionary import DenseDictionary, SparseDictionary
from sae_core.encoders import BatchTopK, ByPursuit, OwnTopK, TiedTopK
from sae_core.kernels.dispatch import backend_name
from sae_core.kronecker import KroneckerTopK
from sae_core.rounding import STORED_GRIDS
from sae_core.sae import SAE
from sae_core.storage import FROM_SEED, NO_SUPPORT, Layout
from sweep.machine.gpus import device_from
from sweep.machine.process import keep_freed_memory, machine_memory
from sweep.plan.workload import step_work
from sweep.train.loop import train_step
from sweep.train.recorded import recording

PROBED = "probed"
_WARM_UP = 2  # steps of a probe that are not timed
_LEAST_TIMED = 4  # steps
_MOST_TIMED = 12  # steps
_LONG_ENOUGH = 0.3  # seconds after which the least number of timed steps will do
_IN_TRAINING = 1.1  # a step's time in training over its time alone: batches, counts of firings and reports add to it
_MEMORY_SHARE = 0.25  # the most of the machine's memory that a probe may take


class Setup(NamedTuple):
    """The way a run computes: everything beside its sizes that decides how fast it is."""

    backend: str
    cuda: bool
    threads: int
    torch: str  # its version


class StepShape(NamedTuple):
    """The sizes that a training step's time depends on. All kinds of sparse supports count as one."""

    layout: Layout
    k: int
    batch: int  # tokens

    @property
    def kind(self) -> tuple[bool, bool | str, str | None, bool, str]:
        """The path through the kernels: steps of one kind run the same code."""
        layout = self.layout
        frozen = layout.value_bits == 0
        encoder = BATCH_TOPK if layout.batch_topk else layout.pursuit
        encoder = f"{encoder} on {len(layout.prefixes)} prefixes" if layout.prefixes else encoder
        own = "heads" if layout.heads else layout.own_encoder
        return layout.support != NO_SUPPORT, own, encoder, frozen, basis_name(layout.basis).kind

    @property
    def work(self) -> float:
        """The predicted work of the step, in ns; see `sweep.plan.workload`."""
        return step_work(*self)


class MeasuredStep(NamedTuple):
    """The time of a training step that has been measured."""

    seconds: float
    origin: str  # "probed", or "3 records"


class StepEstimate(NamedTuple):
    """The time that a training step is expected to take."""

    seconds: float
    origin: str  # a `MeasuredStep`'s, or "scaled", or "guessed"
    doubt: float  # about the logarithm of the factor by which `seconds` may be off


def setup_of(device: str, backend: str, threads: int) -> Setup:
    """Return how a run with these settings will compute in a worker of `threads` CPU threads."""
    found = device_from(device)
    return Setup(backend_name(backend, found), found.type == "cuda", threads, str(torch.__version__))


def shape_of(layout: Layout, k: int, batch: int) -> StepShape:
    """Return the shape of a training step on `batch` tokens."""
    support = FROM_SEED if layout.support != NO_SUPPORT else NO_SUPPORT
    return StepShape(layout._replace(support=support, basis_bits=32, source_tokens=0, codebook=0), k, batch)


def estimated_step(shape: StepShape, measured: Mapping[StepShape, MeasuredStep]) -> StepEstimate:
    """Return the time of a step: as measured, else scaled by work from the nearest measured step of its kind.

    Where no step of its kind is measured, the nearest of any kind serves; where none is, the predicted work alone.
    """
    if shape in measured:
        found = measured[shape]
        return StepEstimate(found.seconds, found.origin, 0.1)
    alike = {other: found for other, found in measured.items() if other.kind == shape.kind} or measured
    if not alike:
        return StepEstimate(shape.work * 1e-9, "guessed", 1.5)
    nearest = min(alike, key=lambda other: abs(math.log(shape.work / other.work)))
    seconds = alike[nearest].seconds * shape.work / nearest.work
    distance = abs(math.log(shape.work / nearest.work))
    doubt = 0.3 + 0.2 * distance + (0 if nearest.kind == shape.kind else 0.7)
    return StepEstimate(seconds, "scaled", doubt)


def with_probes(
    steps: Mapping[StepShape, float],
    measured: Mapping[StepShape, MeasuredStep],
    device: str,
    backend: str,
    threads: int,
    budget: float,
) -> dict[StepShape, MeasuredStep]:
    """Return `measured` and the steps that probes add to it.

    The step whose estimate leaves most seconds in doubt is probed first, and so on until the budget is spent.

    Args:
        steps: how many training steps of each shape there will be.
        budget: seconds that the probes may take together.
    """
    found, left = dict(measured), {shape for shape in steps if shape not in measured}
    ends = time.perf_counter() + budget
    with as_in_a_worker(threads):
        while left:
            estimates = {shape: estimated_step(shape, found) for shape in left}
            shape = max(left, key=lambda s: estimates[s].doubt * estimates[s].seconds * steps[s])
            left.remove(shape)
            # The probe's cost includes the seconds in which its stand-in for the SAE is drawn.
            drawing = shape.layout.n_latents * shape.layout.degree * 2e-8
            cost = (_LEAST_TIMED + _WARM_UP) * estimates[shape].seconds + drawing
            fits = training_bytes(shape) < _MEMORY_SHARE * machine_memory()
            if fits and time.perf_counter() + cost < ends:
                found[shape] = MeasuredStep(_IN_TRAINING * probe(shape, backend, device_from(device)), PROBED)
    return found


def probe(shape: StepShape, backend: str, device: torch.device) -> float:
    """Return the seconds of one step on random data, the fastest of a few.

    The fastest step counts, because other work that slows the machine down meanwhile will soon have changed.
    """
    sae = stand_in(shape, backend).to(device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4, fused=device.type in ("cpu", "cuda"))
    h = torch.randn(shape.batch, shape.layout.d_in, device=device)
    recorded = recording(sae)
    taken: list[float] = []
    started = time.perf_counter()
    while not _enough(len(taken) - _WARM_UP, time.perf_counter() - started):
        before = time.perf_counter()
        train_step(sae, optimizer, h, 1e-4, 1.0, recorded)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - before)
    return min(taken[_WARM_UP:])


def _enough(timed: int, seconds: float) -> bool:
    return timed >= _MOST_TIMED or (timed >= _LEAST_TIMED and seconds >= _LONG_ENOUGH)


def stand_in(shape: StepShape, backend: str = "auto") -> SAE:
    """Return an SAE that computes as long as one of this shape does; its support is quickly drawn, not uniform."""
    layout, generator = shape.layout, torch.Generator().manual_seed(0)
    n, m, degree = layout.n_latents, layout.d_in, layout.degree
    basis = make_basis(layout.basis, m, 0)
    if layout.support == NO_SUPPORT:
        dictionary = DenseDictionary(m, n, generator, degree, basis)
    else:
        gaps = torch.randint(1, m // degree + 1, (n, degree), generator=generator)
        dictionary = SparseDictionary(m, gaps.cumsum(1) - 1, generator, basis=basis)
    if layout.value_bits == 0:
        dictionary.values.requires_grad_(False)
    dictionary.rounded_to = STORED_GRIDS.get(layout.value_bits)
    if layout.pursuit:
        return SAE(dictionary, ByPursuit(layout.pursuit), shape.k, backend=backend, prefixes=layout.prefixes)
    if layout.heads:
        encoder = KroneckerTopK(m, n, layout.heads, generator)
    else:
        encoder = OwnTopK.starting(dictionary, "random", generator) if layout.own_encoder else TiedTopK(dictionary)
    if isinstance(encoder, OwnTopK):
        encoder.rounded_to = STORED_GRIDS.get(layout.encoder_bits)
    encoder = BatchTopK(encoder) if layout.batch_topk else encoder
    return SAE(dictionary, encoder, shape.k, backend=backend, prefixes=layout.prefixes)


def matmul_rate(width: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the multiply-adds per second of (1024, width) by (width, 4 * width).

    These are the largest products of an LM's blocks.
    """
    a = torch.randn(1024, width, device=device).to(dtype)
    b = torch.randn(width, 4 * width, device=device).to(dtype)
    (a @ b).flatten()[0].item()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < 0.1:
        (a @ b).flatten()[0].item()  # waits for a GPU
        count += 1
    return count * a.numel() * 4 * width / (time.perf_counter() - started)


@contextmanager
def as_in_a_worker(threads: int) -> Iterator[None]:
    """Let torch compute with `threads` threads, and keep freed memory, as a worker does."""
    before = torch.get_num_threads()
    keep_freed_memory()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training_bytes(shape: StepShape) -> int:
    """Return the bytes that training takes: values, gradients and Adam's two moments, and a batch's scores."""
    layout = shape.layout
    values = layout.n_latents * layout.degree + layout.encoder_values + layout.basis_values
    return 16 * values + 12 * shape.batch * layout.n_latents
