"""Several SAEs trained on one stream of batches: each ends as it does alone, whatever becomes of the others."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from sae_core.arms import DenseTied, Dynamic, Expander
from sweep.train.config import TrainConfig, TrainingError
from sweep.train.loop import Stopped, train, training
from sweep.train.streams import BatchRequest, JointRequest, Stream, drive

CPU = torch.device("cpu")
RECIPE = TrainConfig(steps=128, batch_size=32, resample_min_steps=40, checkpoint_every=50)
ARMS = (Expander(64, 3, 4), DenseTied(48, 4), Dynamic(64, 5, 4, every=20))


class Pool:
    """Rows that count how many batches, or other samples, are read."""

    def __init__(self):
        self.data = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)).half()
        self.reads = 0

    def rows(self, indices: np.ndarray) -> torch.Tensor:
        self.reads += max(1, len(indices) // 32)
        return self.data[indices]


def stream(pool, seed=0, config=RECIPE):
    return Stream(pool.rows, 500, seed, config.batch_size, CPU, config.steps)


def weights(sae):
    return {**{name: value.clone() for name, value in sae.state_dict().items()}, "support": sae.dictionary.support}


def same(one, other):
    return all(torch.equal(one[k], other[k]) if one[k] is not None else other[k] is None for k in one)


def alone(arm, seed=0, config=RECIPE):
    pool, sae = Pool(), arm.build(16, seed)
    return weights(sae), train(sae, pool.rows, 500, 16.0, config, seed, schedule=arm.schedule), weights(sae)


def test_each_sae_ends_as_it_does_alone_and_batches_are_read_once():
    pool, saes = Pool(), [arm.build(16, 0) for arm in ARMS]
    trainings = [
        training(sae, stream(pool), 16.0, RECIPE, schedule=arm.schedule) for sae, arm in zip(saes, ARMS, strict=True)
    ]
    ended = drive(trainings)
    regrown = sum(bool(ARMS[2].schedule.count(step, 128, 5)) for step in range(1, 129))
    assert pool.reads == 128 + regrown * (ARMS[2].schedule.tokens // 32) and regrown > 0
    for sae, arm, result in zip(saes, ARMS, ended, strict=True):
        before, straight, after = alone(arm)
        assert same(weights(sae), after) and not same(before, after)
        assert result.reports == straight.reports and result.exchanged == straight.exchanged


def test_other_seeds_and_shorter_trainings_go_their_own_way():
    pool, short = Pool(), TrainConfig(steps=70, batch_size=32)
    cases = [(0, RECIPE), (1, RECIPE), (0, short)]
    saes = [ARMS[0].build(16, seed) for seed, _ in cases]
    drive([training(sae, stream(pool, seed, config), 16.0, config) for sae, (seed, config) in zip(saes, cases)])  # noqa: B905
    assert pool.reads == 128 + 128
    for sae, (seed, config) in zip(saes, cases, strict=True):
        assert same(weights(sae), alone(ARMS[0], seed, config)[2])


def test_a_training_that_fails_leaves_the_others_alone(tmp_path):
    pool, saes = Pool(), [ARMS[0].build(16, 0) for _ in range(2)]
    wild = TrainConfig(steps=128, batch_size=32, lr=1e30, grad_clip=1e30, lr_final=0)
    diverging = training(saes[0], stream(pool, 0, wild), 16.0, wild)
    failed, fine = drive([diverging, training(saes[1], stream(pool), 16.0, RECIPE)])
    assert isinstance(failed, TrainingError) and not isinstance(fine, Exception)
    assert same(weights(saes[1]), alone(ARMS[0])[2])


def test_a_training_that_was_stopped_catches_up_on_the_same_stream(tmp_path):
    checkpoint, pool = tmp_path / "checkpoint.pt", Pool()
    sae = ARMS[0].build(16, 0)
    asked = iter([None, "a pruner"])
    (stopped,) = drive([training(sae, stream(pool), 16.0, RECIPE, checkpoint, stop=lambda: next(asked))])
    assert isinstance(stopped, Stopped) and str(stopped) == "stopped at step 100: a pruner" and checkpoint.exists()
    pool, saes = Pool(), [ARMS[0].build(16, 0), ARMS[1].build(16, 0)]
    drive([training(saes[0], stream(pool), 16.0, RECIPE, checkpoint), training(saes[1], stream(pool), 16.0, RECIPE)])
    assert pool.reads == 128  # the other's first 100 steps; then both
    assert same(weights(saes[0]), alone(ARMS[0])[2]) and same(weights(saes[1]), alone(ARMS[1])[2])


def test_a_batch_that_cannot_be_read_ends_the_trainings_that_want_it():
    class Broken(Pool):
        def rows(self, indices):
            if self.reads >= 64:
                raise OSError("the disk is gone")
            return super().rows(indices)

    pool, fine = Broken(), Pool()
    saes = [ARMS[0].build(16, 0) for _ in range(3)]
    *broken, whole = drive([training(sae, stream(p), 16.0, RECIPE) for sae, p in zip(saes, (pool, pool, fine))])  # noqa: B905
    assert all(isinstance(error, OSError) for error in broken) and not isinstance(whole, Exception)
    assert same(weights(saes[2]), alone(ARMS[0])[2])


def test_the_seconds_of_a_training_do_not_count_the_turns_of_others():
    pool, saes = Pool(), [ARMS[0].build(16, 0), DenseTied(4096, 4).build(16, 0)]
    started = time.perf_counter()
    small, large = drive([training(sae, stream(pool), 16.0, RECIPE) for sae in saes])
    assert small.seconds + large.seconds < time.perf_counter() - started


def test_an_interrupt_passes_through_and_closes_every_training():
    closed = []

    def trainee(name):
        try:
            while True:
                yield from waiting(name)
        finally:
            closed.append(name)

    def waiting(name):
        yield BatchRequest(stream(pool), len(closed))
        if name == "b":
            raise KeyboardInterrupt

    pool = Pool()
    with pytest.raises(KeyboardInterrupt):
        drive([trainee("a"), trainee("b")])
    assert sorted(closed) == ["a", "b"]


def test_joint_work_is_done_once_for_all_who_ask_after_the_last_batch():
    done = []

    def do(of, parts):
        done.append((of, list(parts)))
        if "bad" in parts:
            raise ValueError("it cannot be done")

    one, other, pool = object(), object(), Pool()

    def run(name, of, steps):
        for step in range(steps):
            yield BatchRequest(stream(pool), step)
        assert not done, "somebody still wants batches"
        try:
            yield JointRequest(do, of, name)
        except ValueError as error:
            return f"{name}: {error}"
        return name

    ended = drive([run("a", one, 3), run("b", other, 0), run("c", one, 9)])
    assert ended == ["a", "b", "c"] and sorted(parts for _, parts in done) == [["a", "c"], ["b"]]
    done.clear()
    assert drive([run("a", one, 1), run("bad", one, 1)]) == ["a: it cannot be done", "bad: it cannot be done"]
    assert len(done) == 1
