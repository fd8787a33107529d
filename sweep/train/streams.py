"""Batches of activations in the order that a seed gives, read ahead and handed to every training that wants them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

_STEPS_A_BLOCK = 100  # steps whose row indices come from one random stream
_READ_AT_ONCE = 2048  # tokens, if batches are smaller: a small one costs more to ask for than to read

Rows = Callable[[np.ndarray], torch.Tensor]  # row indices (batch,) -> activations (batch, d_in), any float dtype
T = TypeVar("T")


@dataclass(frozen=True)
class Stream:
    """The batches that one seed draws from one pool of activations. Equal streams give equal batches.

    Args:
        rows: gives rows of the pool; two streams read the same pool if this is the same method of the same object.
        n_rows: rows in the pool.
        steps: how many batches will be wanted; reading ahead ends there.
    """

    rows: Rows
    n_rows: int
    seed: int
    batch_size: int
    device: torch.device
    steps: int = field(compare=False)  # trainings of different length still share their batches

    @property
    def at_once(self) -> int:
        """How many batches are read at once, and as many ahead while these are used."""
        return max(1, _READ_AT_ONCE // self.batch_size)

    def read(self, steps: range) -> tuple[torch.Tensor, ...]:
        """Return the batches of `steps`, in memory that the device can copy from without waiting."""
        wanted = np.concatenate([batch_indices(self.seed, step, self.batch_size, self.n_rows) for step in steps])
        rows = self.rows(wanted)
        return (rows.pin_memory() if self.device.type == "cuda" else rows).split(self.batch_size)

    def sample(self, step: int, count: int) -> torch.Tensor:
        """Return `count` rows of the pool that the change of a support after `step` looks at."""
        return self.rows(drawn(np.random.PCG64([self.seed, step, 1]), count, self.n_rows))


@dataclass(frozen=True)
class FedStream:
    """The batches that a feed gives in an order of its own; trainings of all seeds share them.

    Args:
        batch: (layer, step) -> the batch; two streams read the same feed if this is the same method of the same object.
        rows: (layer, step, bits, count) -> `count` rows that `bits` draws out of the buffer that `step` reads.
        layer: the hook point.
        seed: of the training; draws what a change of a support looks at.
        steps: how many batches will be wanted.
    """

    batch: Callable[[int, int], torch.Tensor]
    rows: Callable[[int, int, np.random.PCG64, int], torch.Tensor]
    layer: int
    device: torch.device
    seed: int = field(compare=False)
    steps: int = field(compare=False)

    @property
    def at_once(self) -> int:
        """No batch is read while another is used: the next one may be of another buffer, and there is only one."""
        return 0

    def read(self, steps: range) -> tuple[torch.Tensor, ...]:
        """Return the batches of `steps`."""
        return tuple(self.batch(self.layer, step) for step in steps)

    def sample(self, step: int, count: int) -> torch.Tensor:
        """Return `count` rows of the present buffer that the change of a support after `step` steps looks at."""
        return self.rows(self.layer, step - 1, np.random.PCG64([self.seed, step, 1]), count)


Batches = Stream | FedStream


class BatchRequest(NamedTuple):
    """The batch that a training needs next."""

    stream: Batches
    step: int


class JointRequest(NamedTuple):
    """Work that one training leaves to be done for several at once: `do(of, parts)`.

    Requests with the same `do` and `of` are joined. It is done when no training wants a batch any more.
    """

    do: Callable[[Any, Sequence[Any]], None]
    of: Any  # compared by identity
    part: Any


class Delivery(NamedTuple):
    """A batch, handed to the training that asked for it."""

    batch: torch.Tensor
    seconds: float  # the wait for it, divided by the number of trainings that got it


# A run under way: a generator that yields requests and returns its result. It is sent the batches that it asks for, and
# None when joint work is done.
Trainee = Generator[BatchRequest | JointRequest, Any, T]


def drive(trainees: Sequence[Trainee[T]]) -> list[T | Exception]:
    """Run all trainees to their ends; return each one's result in order, or the exception that it ended with.

    Trainees that want the same batch get the same tensor: it is read, and copied to the device, once. Where they want
    different steps the earliest comes first, so that a training that starts or resumes later catches up. Joint work
    waits until nobody wants a batch.
    """
    results: dict[int, T | Exception] = {}
    requests: dict[int, BatchRequest | JointRequest] = {}

    def advance(index: int, delivery: Delivery | None) -> None:
        requests.pop(index, None)
        try:
            requests[index] = trainees[index].send(delivery)
        except StopIteration as end:
            results[index] = end.value
        except Exception as error:
            results[index] = error

    try:
        with _Reader() as reader:
            for index in range(len(trainees)):
                advance(index, None)
            while requests:
                batches = {i: request for i, request in requests.items() if isinstance(request, BatchRequest)}
                together, outcome = _next_delivery(reader, batches) if batches else _joint_work(requests)
                for index in together:
                    if not isinstance(outcome, Exception):
                        advance(index, outcome)
                    else:
                        results[index] = _ended_by(trainees[index], outcome)
                        del requests[index]
    finally:
        for trainee in trainees:
            trainee.close()
    return [results[index] for index in range(len(trainees))]


def _next_delivery(reader: _Reader, requests: dict[int, BatchRequest]) -> tuple[list[int], Delivery | Exception]:
    """Read the earliest batch that is wanted; return who wants it, and the batch or the error of reading it."""
    stream, step = min(requests.values(), key=lambda request: request.step)
    together = [i for i, request in requests.items() if request.step == step and request.stream == stream]
    steps = max(requests[i].stream.steps for i in together)
    started = time.perf_counter()
    try:
        batch = reader.get(stream, step, steps).to(stream.device, non_blocking=True)
    except Exception as error:
        return together, error
    return together, Delivery(batch, (time.perf_counter() - started) / len(together))


def _joint_work(requests: Mapping[int, Any]) -> tuple[list[int], Exception | None]:
    """Do the first joint work that is asked for; return for whom it was done, and its error or None."""
    first: JointRequest = next(iter(requests.values()))
    together = [i for i, request in requests.items() if request.do == first.do and request.of is first.of]
    try:
        first.do(first.of, [requests[i].part for i in together])
    except Exception as error:
        return together, error
    return together, None


def _ended_by(trainee: Trainee[T], error: Exception) -> T | Exception:
    """Raise the error of reading a batch inside the trainee that wanted it; return how the trainee ended."""
    try:
        trainee.throw(error)
    except StopIteration as end:
        return end.value
    except Exception as raised:
        return raised
    return error


class _Reader:
    """Reads batches in a thread of its own: the next ones while the last is used."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._coming: dict[tuple[Batches, int], Future[tuple[torch.Tensor, ...]]] = {}  # by the first of the steps

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)  # an error or Ctrl-C does not wait for a slow disk

    def get(self, stream: Batches, step: int, steps: int) -> torch.Tensor:
        """Return the batch of `step`, and have the next ones read, as far as `steps` goes."""
        many = stream.at_once
        if not many:
            return stream.read(range(step, step + 1))[0]
        first = step - step % many
        for start in range(first, min(first + 2 * many, steps), many):
            if (stream, start) not in self._coming:
                self._coming[stream, start] = self._pool.submit(stream.read, range(start, start + many))
        batches = self._coming[stream, first].result()
        if step - first == many - 1:  # until then the next of them may be wanted
            del self._coming[stream, first]
        return batches[step - first]


def batch_indices(seed: int, step: int, batch_size: int, n_rows: int) -> np.ndarray:
    """Return the rows of the pool (batch_size,) that `step` sees, drawn with replacement from seed and step alone."""
    block, within = divmod(step, _STEPS_A_BLOCK)
    return drawn(np.random.PCG64([seed, block]).advance(within * batch_size), batch_size, n_rows)


def drawn(bits: np.random.PCG64, count: int, n_rows: int) -> np.ndarray:
    """Return `count` row indices, with replacement, from raw draws: stable on every platform and numpy version."""
    raw = bits.random_raw(count)
    return ((raw >> np.uint64(32)) * np.uint64(n_rows) >> np.uint64(32)).astype(np.int64)
