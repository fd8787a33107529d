"""Activations straight from the LM: what a buffer holds, that any step can be made alone, and sweeps that use them."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch

from sweep.activations.feed import FedPool, Feed, buffers_of
from sweep.corpus import TextCorpus
from sweep.corpus.windows import WindowConfig, train_windows
from sweep.lm.find import ModelConfig, find_model
from sweep.lm.model import load_lm
from sweep.lm.ordinary import OutlierRule
from tests.sweep.world import World

ROWS = 10


@pytest.fixture
def lm_and_windows(model_folders, text_file, tokenizer):
    """The LM and the training windows."""
    config = ModelConfig(name="t", path=str(model_folders["llama"]), window=16)
    lm = load_lm(config, find_model(config), torch.device("cpu"))
    return lm, train_windows(TextCorpus(str(text_file)), tokenizer, WindowConfig(16), 500)


@pytest.fixture
def feed(lm_and_windows, tmp_path):
    """Return a function that makes feeds of 500 tokens through buffers of 100."""
    lm, windows = lm_and_windows

    def make(rule=None, leaves_out=False, layers=(1,), buffer=100, memo="memo", lm=lm):
        return Feed(lambda: lm, windows, layers, buffer, ROWS, 4, 0, rule, leaves_out, tmp_path / memo)

    return make


@pytest.mark.parametrize(("buffer", "count"), [(100, 5), (130, 4), (10_000, 1), (1, None)])
def test_buffers_hold_every_window_once(lm_and_windows, buffer, count):
    lengths = lm_and_windows[1].lengths
    found = buffers_of(lengths, buffer, ROWS, seed=3)
    assert sorted(np.concatenate([b.windows for b in found])) == list(range(len(lengths)))
    assert count is None or len(found) == count
    for before, after in zip(found, found[1:], strict=False):
        assert after.first_step == before.first_step + before.steps
    assert all(list(lengths[b.windows]) == sorted(lengths[b.windows], reverse=True) for b in found)
    assert all(b.steps == max(1, lengths[b.windows].sum() // ROWS) for b in found)
    other = buffers_of(lengths, buffer, ROWS, seed=4)
    assert count == 1 or any(set(a.windows) != set(b.windows) for a, b in zip(found, other, strict=False))


def test_a_pass_gives_the_lms_activations_each_once_and_the_next_pass_in_another_order(feed, lm_and_windows):
    lm, windows = lm_and_windows
    ours, first = feed(buffer=10_000), None
    assert ours.steps_a_pass * ROWS == 500
    hidden = lm.capture(torch.from_numpy(windows.tokens), [1])[1][torch.from_numpy(windows.mask())]
    for nth_pass in (0, 1):
        steps = range(nth_pass * ours.steps_a_pass, (nth_pass + 1) * ours.steps_a_pass)
        rows = torch.cat([ours.batch(1, step) for step in steps]).float()
        # The order is another one, and sums in batches of other sizes round apart.
        torch.testing.assert_close(rows.sort(dim=0).values, hidden.sort(dim=0).values, rtol=2e-3, atol=2e-3)
        assert first is None or not torch.equal(first, rows)
        first = rows


def test_the_batch_of_any_step_is_the_same_without_those_before_it(feed):
    whole = feed(layers=(0, 1))
    steps = whole.steps_a_pass + 20
    batches = {layer: [whole.batch(layer, step) for step in range(steps)] for layer in (0, 1)}
    for step in (0, 30, whole.steps_a_pass - 1, steps - 1):
        # It remembers no statistics, and captures one layer only.
        alone = feed(memo=f"other-{step}")
        assert torch.equal(alone.batch(1, step), batches[1][step])
    assert FedPool(feed(memo="other-30"), 1).mean_norm == FedPool(whole, 1).mean_norm  # of the first buffer


def test_one_lm_pass_serves_all_layers_and_all_who_ask(feed, lm_and_windows):
    lm, windows = lm_and_windows
    ran = []
    lm.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    ours = feed(layers=(0, 1))
    for step in range(ours.steps_a_pass):
        for layer in (0, 1, 0):
            ours.batch(layer, step)
    assert len(ran) == sum(-(-len(b.windows) // 4) for b in ours.buffers)


def test_tokens_that_are_not_ordinary_are_left_out(feed, lm_and_windows):
    lm, windows = lm_and_windows

    def sink(_module, _inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, 0] *= 300.0
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    lm.blocks[1].register_forward_hook(sink)
    special = (int(windows.tokens[1, 5]),)
    ours = feed(OutlierRule(5.0, special), leaves_out=True)
    rows = torch.cat([ours.batch(1, step) for step in range(ours.steps_a_pass)])
    pool = FedPool(ours, 1)
    assert float(rows.float().norm(dim=1).max()) <= 5.01 * pool.norms.median
    assert pool.norms.outliers >= 1 and pool.tokens == pool.norms.captured - pool.norms.special - pool.norms.outliers
    every = feed(OutlierRule(5.0, special), leaves_out=False, memo="every")
    rows = torch.cat([every.batch(1, step) for step in range(every.steps_a_pass)])
    assert float(rows.float().norm(dim=1).max()) > 50 * pool.norms.median


STREAM = ["cache.mode=stream", "cache.buffer=200", "train.steps=60"]
GRID = ["-m", "sae=expander,dynamic", "layer=0,1", "seed=0,1", *STREAM]


@pytest.fixture
def world(tmp_path, model_folders, text_file):
    return World(tmp_path, model_folders["gpt_neox"], text_file)


def test_a_streamed_sweep_keeps_no_activations_and_goes_on_to_the_same_saes_after_a_kill(world, tmp_path):
    code, out, err = world.sweep(*GRID, "plan=true")
    assert code == 0 and "LM stream: layers 0, 1" in out and "8 SAEs" in out and "cache.mode=pool would take" in out
    code, out, err = world.sweep(*GRID)
    assert code == 0, err
    records = world.records()
    assert len(records) == 8 and all(record["status"] == "complete" for record in records)
    assert all(record["activations"]["stream"]["buffers"] == 4 for record in records)
    assert not list((world.folder / "cache").glob("*/manifest.json"))
    killed = World(tmp_path / "killed", world.common[1].split("=")[1], world.common[2].split("=")[1])
    checkpoints = "train.checkpoint_every=50"
    assert killed.sweep(*GRID, checkpoints, happens="sweep.train.loop:train_step 450 kill")[0] == -signal.SIGKILL
    code, out, err = killed.sweep(*GRID, checkpoints)
    assert code == 0, err
    for record in records:
        ours, theirs = (w.runs / record["run_id"] / "sae.safetensors" for w in (world, killed))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("cache.mode=disk", "cache.mode=disk must be pool or stream"),
        ("cache.buffer=0", "cache.buffer=0 must be a whole"),
    ],
)
def test_a_wrong_setting_is_one_line(world, setting, said):
    code, out, err = world.sweep("cache.mode=stream", setting)
    assert code == 1 and said in err and err.count("\n") == 1
