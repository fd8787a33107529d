"""Batches of a pool, in the order that a seed gives, read ahead and handed to everyone who trains on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import torch

_STEPS_A_BLOCK = 100  # steps whose row indices come from one random stream
_AHEAD = 2  # batches that are being read while one is used

Rows = Callable[[np.ndarray], torch.Tensor]  # row indices -> activations (batch, d_in), any float dtype
T = TypeVar("T")


@dataclass(frozen=True)
class Stream:
    """The batches of one seed. Equal streams give equal batches.

    Args:
        rows: gives the pool's rows; two streams are of one pool where this is the same function of the same object.
        n_rows: rows in the pool.
        steps: how many batches will be wanted; only saves reading further.
    """

    rows: Rows
    n_rows: int
    seed: int
    batch_size: int
    device: torch.device
    steps: int = field(compare=False)

    def read(self, step: int) -> torch.Tensor:
        """The batch of `step`, in memory that the device can copy from."""
        batch = self.rows(batch_indices(self.seed, step, self.batch_size, self.n_rows))
        return batch.pin_memory() if self.device.type == "cuda" else batch


class BatchRequest(NamedTuple):
    """The batch that a training needs next."""

    stream: Stream
    step: int


class Delivery(NamedTuple):
    """What it gets."""

    batch: torch.Tensor
    seconds: float  # that waiting for it took, shared among those who got it


Trainee = Generator[BatchRequest, Delivery, T]  # yields what it wants, is sent it, returns its result


def drive(trainees: Sequence[Trainee[T]]) -> list[T | Exception]:
    """Run all trainees to their ends; the result of each in order, or the exception it ended with.

    Those that want the same batch get the same tensor: it is read, and copied to the device, once. Where they differ
    the earliest step comes first, so that equal streams fall into step.
    """
    results: dict[int, T | Exception] = {}
    wanted: dict[int, BatchRequest] = {}

    def advance(index: int, given: Delivery | None) -> None:
        wanted.pop(index, None)
        try:
            wanted[index] = next(trainees[index]) if given is None else trainees[index].send(given)
        except StopIteration as end:
            results[index] = end.value
        except Exception as error:
            results[index] = error

    try:
        with _Reader() as reader:
            for index in range(len(trainees)):
                advance(index, None)
            while wanted:
                stream, step = min(wanted.values(), key=lambda want: want.step)
                together = [i for i, want in wanted.items() if want.step == step and want.stream == stream]
                last = max(wanted[i].stream.steps for i in together)
                started = time.perf_counter()
                try:
                    batch = reader.get(stream, step, last).to(stream.device, non_blocking=True)
                except Exception as error:
                    for index in together:
                        _throw(trainees[index], error, results, index)
                        del wanted[index]
                    continue
                given = Delivery(batch, (time.perf_counter() - started) / len(together))
                for index in together:
                    advance(index, given)
    finally:
        for trainee in trainees:
            trainee.close()
    return [results[index] for index in range(len(trainees))]


def _throw(trainee: Trainee[T], error: Exception, results: dict[int, T | Exception], index: int) -> None:
    """Let the trainee end by the error of reading its batch."""
    try:
        trainee.throw(error)
    except StopIteration as end:
        results[index] = end.value
    except Exception as raised:
        results[index] = raised
    else:
        results[index] = error


class _Reader:
    """Reads batches in a thread, the next ones while the last is used."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._coming: dict[tuple[Stream, int], Future[torch.Tensor]] = {}

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)  # an error or Ctrl-C does not wait for a slow disk

    def get(self, stream: Stream, step: int, last: int) -> torch.Tensor:
        for ahead in range(step, min(step + _AHEAD + 1, last)):
            if (stream, ahead) not in self._coming:
                self._coming[stream, ahead] = self._pool.submit(stream.read, ahead)
        return self._coming.pop((stream, step)).result()


def batch_indices(seed: int, step: int, batch_size: int, n_rows: int) -> np.ndarray:
    """Rows of the pool that `step` sees, drawn with replacement; depends on the arguments alone: (batch_size,)."""
    block, within = divmod(step, _STEPS_A_BLOCK)
    return drawn(np.random.PCG64([seed, block]).advance(within * batch_size), batch_size, n_rows)


def drawn(bits: np.random.PCG64, count: int, n_rows: int) -> np.ndarray:
    """`count` row indices, with replacement, from raw draws: stable on every platform and numpy version."""
    raw = bits.random_raw(count)
    return ((raw >> np.uint64(32)) * np.uint64(n_rows) >> np.uint64(32)).astype(np.int64)
