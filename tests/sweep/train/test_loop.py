from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
import torch

from sae_core.arms import DenseTied, DenseWarmTied, Dynamic, Expander, FewBits, ProductQuantised, TrellisCoded
from sae_core.rounding import grid_of
from sweep.train.config import TrainConfig, TrainingError
from sweep.train.loop import train
from sweep.train.state import CheckpointError, TrainingState
from sweep.train.streams import batch_indices

DATA = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) @ torch.randn(
    16, 16, generator=torch.Generator().manual_seed(1)
)
VARIANCE = float((DATA - DATA.mean(0)).square().sum(1).mean())
CONFIG = TrainConfig(
    steps=400, batch_size=32, lr=3e-3, resample_min_steps=100, resample_fraction=0.1, checkpoint_every=150
)


def rows(indices):
    return DATA[torch.from_numpy(indices)]


class Killed(Exception):
    pass


def fit(arm, config=CONFIG, checkpoint=None, stop_at=None, reports=None, data=rows, curve=None):
    sae = arm.build(16, seed=0, scale=0.5)

    def report(progress):
        if reports is not None:
            reports.append(progress)
        if stop_at is not None and progress.step >= stop_at:
            raise Killed

    found = train(sae, data, 500, VARIANCE, config, 0, checkpoint, report, arm.schedule, arm.rounding)
    if curve is not None:
        curve += found.reports
        assert found.seconds > 0 and (found.exchanged > 0) == (arm.schedule is not None)
    return sae


LEARNED = Dynamic(48, 5, 4, every=40, tokens=200)
TURNED = Expander(48, 3, 4, basis="reflections3_trained", always_on=2)
ROUNDED = FewBits(LEARNED, 2, rounded_from=0.8)  # from step 320 on: after the checkpoint that it goes on from
SOON_ROUNDED = FewBits(DenseTied(48, 4), 1.58, rounded_from=0.25)
NESTED = Dynamic(48, 5, 4, "batch_topk", prefixes=("1/4",), every=40, tokens=200)
RESUMED = [Expander(48, 3, 4), DenseWarmTied(48, 4), LEARNED, TURNED, ROUNDED, SOON_ROUNDED, NESTED]
RESUMED += [ProductQuantised(DenseTied(48, 4), 2), TrellisCoded(DenseTied(48, 4), 2)]


@pytest.mark.parametrize("arm", RESUMED, ids=lambda a: a.label)
def test_resumed_is_bit_identical_to_uninterrupted(arm, tmp_path):
    whole_reports, reports, curve = [], [], []
    whole = fit(arm, reports=whole_reports)
    checkpoint = tmp_path / "c.pt"
    with pytest.raises(Killed):
        fit(arm, checkpoint=checkpoint, stop_at=350)
    assert checkpoint.exists()
    resumed = fit(arm, checkpoint=checkpoint, reports=reports, curve=curve)
    assert reports[0].step == 350  # went on from step 300, not from 0
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert curve == whole_reports  # the reports from before the checkpoint are there too
    assert whole.dictionary.rounded_to == resumed.dictionary.rounded_to == (arm.rounding and grid_of(arm.bits))
    if arm.schedule is not None:
        assert torch.equal(whole.dictionary.support, resumed.dictionary.support)
        assert not torch.equal(whole.dictionary.support, arm.build(16, seed=0).dictionary.support)


def test_values_are_rounded_from_the_share_of_training_that_is_asked_for():
    arm, used = FewBits(Expander(48, 3, 4), 2, rounded_from=0.5), []
    sae = arm.build(16, seed=0)
    sae.dictionary.constrain = lambda: used.append(sae.dictionary.rounded_to)  # called after each step
    train(sae, rows, 500, VARIANCE, TrainConfig(steps=9, batch_size=8), 0, rounding=arm.rounding)
    assert used == [None] * 5 + [grid_of(2)] * 4
    late = FewBits(Expander(48, 3, 4), 2, rounded_from=0.99).rounding
    assert [late.started(step, 400) for step in (395, 396, 399)] == [False, True, True]


def test_an_encoders_own_weights_are_rounded_when_the_atoms_are():
    arm, used = FewBits(DenseWarmTied(48, 4), 2, rounded_from=0.5, encoder_bits=4), []
    sae = arm.build(16, seed=0)
    sae.dictionary.constrain = lambda: used.append((sae.dictionary.rounded_to, sae.encoder.rounded_to))
    train(sae, rows, 500, VARIANCE, TrainConfig(steps=4, batch_size=8), 0, rounding=arm.rounding)
    assert used == [(None, None)] * 2 + [(grid_of(2), grid_of(4))] * 2


def test_before_its_values_are_rounded_an_arm_trains_as_its_plain_form():
    plain, late = Expander(48, 3, 4), FewBits(Expander(48, 3, 4), 2, rounded_from=0.97)
    config = TrainConfig(steps=40, batch_size=32)  # the last step alone is rounded
    atoms = [fit(arm, config).dictionary.values for arm in (plain, late)]
    assert 0 < (atoms[0] - atoms[1]).abs().max() < 2 * config.lr


def test_the_loss_falls_and_fvu_is_the_loss_over_the_variance():
    reports = []
    sae = fit(Expander(48, 3, 4), reports=reports)
    assert reports[-1].fvu < 0.7 * reports[0].fvu
    with torch.no_grad():
        exact = float((DATA - sae(DATA).reconstruction).square().sum(1).mean()) / VARIANCE
    assert reports[-1].fvu == pytest.approx(exact, rel=0.15)
    assert reports[-1].tokens == 400 * 32 and [r.step for r in reports] == list(range(50, 401, 50))


def test_half_precision_rows_are_accepted():
    reports = []
    fit(Expander(48, 3, 4), TrainConfig(steps=5), data=lambda i: rows(i).half(), reports=reports)
    assert reports[-1].step == 5 and math.isfinite(reports[-1].loss)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_with_its_step(poison):
    given = []

    def poisoned(indices):
        found = rows(indices)
        bad = 72 * 32 - len(given)  # the first token of the 73rd batch
        given.extend(indices)
        if 0 <= bad < len(found):
            found[bad] *= poison
        return found

    with pytest.raises(TrainingError, match="at step 73"):
        fit(Expander(48, 3, 4), data=poisoned)


def test_an_error_does_not_wait_for_the_rows_read_ahead():
    release, asked = threading.Event(), []

    def slow(indices):
        asked.append(1)
        if len(asked) > 1:
            release.wait(30)
        return rows(indices) * math.nan

    def interrupted(*_):
        raise Killed

    started = time.perf_counter()
    sae = Expander(48, 3, 4).build(16, seed=0)
    sae.encoder.register_forward_hook(interrupted)
    try:
        with pytest.raises(Killed):
            train(sae, slow, 500, VARIANCE, CONFIG, 0)
        assert time.perf_counter() - started < 10
    finally:
        release.set()


def test_a_damaged_checkpoint_is_said(tmp_path):
    (tmp_path / "c.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError):
        fit(Expander(48, 3, 4), checkpoint=tmp_path / "c.pt")


def test_batches_depend_on_seed_and_step_alone_and_cover_the_pool():
    assert np.array_equal(batch_indices(1, 250, 32, 500), batch_indices(1, 250, 32, 500))
    assert not np.array_equal(batch_indices(1, 250, 32, 500), batch_indices(2, 250, 32, 500))
    drawn = np.concatenate([batch_indices(0, s, 32, 500) for s in range(300)])
    assert drawn.min() >= 0 and drawn.max() < 500 and len(np.unique(drawn)) == 500


def test_learning_rate_is_the_cosine_of_the_paper():
    config = TrainConfig()
    assert config.lr_at(0) == 3e-4
    assert config.lr_at(2500) == pytest.approx((3e-4 + 1e-5) / 2)
    assert config.lr_at(4999) == pytest.approx(1e-5, rel=1e-3)
    assert config.resample_every == 1000


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, "train.steps=0"),
        ({"lr": 0.0}, "train.lr=0.0"),
        ({"lr": math.nan}, "train.lr=nan"),
        ({"lr_final": 1.0}, "train.lr_final=1.0"),
        ({"beta2": 1.0}, "train.beta2=1.0"),
        ({"input_scale": "half"}, "train.input_scale=half"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(TrainingError, match=message):
        TrainConfig(**settings)


def test_a_latent_that_only_fills_up_the_k_picks_has_not_fired():
    state = TrainingState(Expander(6, 3, 2).build(16, seed=0), CONFIG, seed=0, code="")
    for step, (codes, indices) in enumerate([([[1.5, 0.0], [-2.0, 0.0]], [[3, 0], [4, 0]]), ([[0.5, 0.1]], [[3, 5]])]):
        state.step = step + 1
        state.count_firings(torch.tensor(codes), torch.tensor(indices))
    assert state.firings.tolist() == [0, 0, 0, 2, 1, 1]
    assert state.last_fired.tolist() == [0, 0, 0, 2, 1, 2]
