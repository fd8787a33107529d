"""How long a training step takes here: as known from finished runs, from a short probe, or scaled from either."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from sae_core.dictionary import DenseDictionary, SparseDictionary
from sae_core.encoders import ByPursuit, OwnTopK, TiedTopK
from sae_core.kernels.dispatch import backend_name
from sae_core.sae import SAE
from sae_core.storage import FROM_SEED, NO_SUPPORT, Layout
from sweep.machine.gpus import device_from
from sweep.machine.process import keep_freed_memory, machine_memory
from sweep.plan.workload import step_work
from sweep.train.loop import train_step

_WARM, _MOST, _ENOUGH = 2, 12, 0.3  # steps not timed; timed; seconds after which four of these are enough
_AROUND = 1.1  # a step in training, beside one alone: batches, counts of firings, reports
_MEMORY = 0.25  # share of the machine's memory that a probe may take


class Setup(NamedTuple):
    """What else decides how fast a run is."""

    backend: str
    cuda: bool
    threads: int
    torch: str  # its version


class Cell(NamedTuple):
    """What a training step's time depends on, the machine apart; supports of all kinds are alike."""

    layout: Layout
    k: int
    batch: int

    @property
    def kind(self) -> tuple[bool, bool, str | None, bool]:
        """Cells of one kind take the same path through the kernels."""
        layout = self.layout
        return layout.support != NO_SUPPORT, layout.own_encoder, layout.pursuit, layout.value_bits == 0

    @property
    def work(self) -> float:
        return step_work(*self)


class Known(NamedTuple):
    seconds: float  # a step
    origin: str  # "probed", or "3 records"


class Step(NamedTuple):
    """An estimate."""

    seconds: float
    origin: str
    doubt: float  # about the logarithm of its error


def setup_of(device: str, backend: str, threads: int) -> Setup:
    """How a run whose config says so will run in a worker of `threads` CPU threads."""
    found = device_from(device)
    return Setup(backend_name(backend, found), found.type == "cuda", threads, str(torch.__version__))


def cell_of(layout: Layout, k: int, batch: int) -> Cell:
    kind = FROM_SEED if layout.support != NO_SUPPORT else NO_SUPPORT
    return Cell(layout._replace(support=kind), k, batch)


def step_of(cell: Cell, known: Mapping[Cell, Known]) -> Step:
    """Seconds of a step of `cell`: as known, or of the nearest known cell of its kind, else of any, by their work."""
    if cell in known:
        found = known[cell]
        return Step(found.seconds, found.origin, 0.1)
    alike = {other: found for other, found in known.items() if other.kind == cell.kind} or known
    if not alike:
        return Step(cell.work * 1e-9, "guessed", 1.5)
    distance, nearest = min(
        ((abs(math.log(cell.work / other.work)), other) for other in alike), key=lambda pair: pair[0]
    )
    seconds = alike[nearest].seconds * cell.work / nearest.work
    doubt = 0.3 + 0.2 * distance + (0 if nearest.kind == cell.kind else 0.7)
    return Step(seconds, "scaled", doubt)


def probed(
    steps: Mapping[Cell, float], known: Mapping[Cell, Known], device: str, backend: str, threads: int, budget: float
) -> dict[Cell, Known]:
    """`known`, and what probes add: first where most seconds are in doubt, as long as the budget of seconds lasts.

    Args:
        steps: how many there will be in all, by cell.
    """
    found, left = dict(known), {cell for cell in steps if cell not in known}
    ends = time.perf_counter() + budget
    with as_in_a_worker(threads):
        while left:
            doubts = {cell: step_of(cell, found) for cell in left}
            cell = max(left, key=lambda c: doubts[c].doubt * doubts[c].seconds * steps[c])
            left.remove(cell)
            cost = (4 + _WARM) * doubts[cell].seconds + cell.layout.n_latents * cell.layout.degree * 2e-8
            if time.perf_counter() + cost < ends and training_bytes(cell) < _MEMORY * machine_memory():
                found[cell] = Known(_AROUND * probe(cell, backend, device_from(device)), "probed")
    return found


def probe(cell: Cell, backend: str, device: torch.device) -> float:
    """Seconds of one step, the fastest of a few on random data: what else the machine does meanwhile soon changes."""
    sae = stand_in(cell, backend).to(device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-4, fused=device.type in ("cpu", "cuda"))
    h, taken, started = torch.randn(cell.batch, cell.layout.d_in, device=device), [], time.perf_counter()
    while len(taken) < _WARM + _MOST and (len(taken) < _WARM + 4 or time.perf_counter() - started < _ENOUGH):
        before = time.perf_counter()
        train_step(sae, optimizer, h, 1e-4, 1.0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - before)
    return min(taken[_WARM:])


def stand_in(cell: Cell, backend: str = "auto") -> SAE:
    """An SAE that computes as long as the cell's own; its support is quickly drawn, not uniform."""
    layout, generator = cell.layout, torch.Generator().manual_seed(0)
    n, m, degree = layout.n_latents, layout.d_in, layout.degree
    if layout.support == NO_SUPPORT:
        dictionary = DenseDictionary(m, n, generator)
    else:
        gaps = torch.randint(1, m // degree + 1, (n, degree), generator=generator)
        dictionary = SparseDictionary(m, gaps.cumsum(1) - 1, generator)
    if layout.value_bits == 0:
        dictionary.values.requires_grad_(False)
    if layout.own_encoder:
        encoder = OwnTopK(dictionary, "random", generator)
    else:
        encoder = ByPursuit(layout.pursuit) if layout.pursuit else TiedTopK(dictionary)
    return SAE(dictionary, encoder, cell.k, backend=backend)


def matmul_rate(width: int, device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-adds per second of (1024, width) by (width, 4 * width), the largest products of an LM's blocks."""
    a = torch.randn(1024, width, device=device).to(dtype)
    b = torch.randn(width, 4 * width, device=device).to(dtype)
    (a @ b).flatten()[0].item()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < 0.1:
        (a @ b).flatten()[0].item()  # waits for a GPU
        count += 1
    return count * a.numel() * 4 * width / (time.perf_counter() - started)


@contextmanager
def as_in_a_worker(threads: int):
    """Within, torch computes with `threads` threads."""
    before = torch.get_num_threads()
    keep_freed_memory()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training_bytes(cell: Cell) -> int:
    """Values, gradients and Adam's two moments, and a batch's scores."""
    layout = cell.layout
    return 16 * (layout.n_latents * layout.degree + layout.encoder_values) + 12 * cell.batch * layout.n_latents
