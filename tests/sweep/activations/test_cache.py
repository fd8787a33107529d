from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import sweep.activations.cache as activations
from sweep.activations.cache import CacheError, CacheKey, ensure_pools, open_pool
from sweep.corpus.documents import TextCorpus
from sweep.corpus.windows import WindowConfig, train_windows
from sweep.lm.find import ModelConfig, find_model
from sweep.lm.model import load_lm

KEY = CacheKey("w", "float32", 1, "resid_post", "c", 16, "window", 500, "float16", 0)


@pytest.fixture
def source(model_folders, text_file, tokenizer):
    config = ModelConfig(name="t", path=str(model_folders["llama"]), window=16)
    lm = load_lm(config, find_model(config), torch.device("cpu"))
    return lm, train_windows(TextCorpus(str(text_file)), tokenizer, WindowConfig(16), 500)


def test_rows_are_the_lms_activations_shuffled_once(tmp_path, source):
    lm, windows = source
    ensure_pools(tmp_path, [KEY], lambda: source, batch_size=4)
    pool = open_pool(tmp_path, KEY)
    got = pool.rows(np.arange(500)).float()
    hidden = lm.capture(torch.from_numpy(windows.tokens), [1])[1]
    wanted = hidden[torch.from_numpy(windows.mask())]
    place = np.argsort(np.random.PCG64(KEY.seed).random_raw(500), kind="stable")
    assert not np.array_equal(place, np.arange(500))
    # The pass runs in batches of 4 windows and this one in a single batch: sums may round apart.
    torch.testing.assert_close(got[torch.from_numpy(place)], wanted, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(pool.mean, wanted.mean(0), atol=1e-3, rtol=1e-3)
    assert pool.mean_norm == pytest.approx(float(wanted.norm(dim=1).mean()), rel=1e-3)
    variance = float((wanted - wanted.mean(0)).square().sum(1).mean())
    assert pool.total_variance == pytest.approx(variance, rel=1e-2)


def test_one_pass_for_several_layers_and_none_when_all_are_there(tmp_path, source):
    calls = []

    def load():
        calls.append(1)
        return source

    keys = [replace(KEY, layer=layer) for layer in (0, 2)]
    ensure_pools(tmp_path, keys, load, 4)
    ensure_pools(tmp_path, keys, load, 4)
    assert len(calls) == 1
    assert all(open_pool(tmp_path, key) is not None for key in keys)
    assert not torch.equal(open_pool(tmp_path, keys[0]).mean, open_pool(tmp_path, keys[1]).mean)


def test_rows_across_shards(tmp_path, source, monkeypatch):
    ensure_pools(tmp_path / "one", [KEY], lambda: source, 4)
    monkeypatch.setattr(activations, "SHARD_ROWS", 64)
    ensure_pools(tmp_path / "many", [KEY], lambda: source, 4)
    rows = np.random.default_rng(0).integers(0, 500, 300)
    one, many = open_pool(tmp_path / "one", KEY), open_pool(tmp_path / "many", KEY)
    assert torch.equal(one.rows(rows), many.rows(rows))


def test_bfloat16_comes_back_as_such(tmp_path, source):
    key = replace(KEY, dtype="bfloat16")
    ensure_pools(tmp_path, [key], lambda: source, 4)
    rows = open_pool(tmp_path, key).rows(np.arange(10))
    assert rows.dtype == torch.bfloat16 and rows.float().abs().sum() > 0


def test_every_field_of_the_key_names_another_entry():
    others = [replace(KEY, **{f: (v + 1 if isinstance(v, int) else v + "x")}) for f, v in KEY.__dict__.items()]
    assert len({KEY.name, *(o.name for o in others)}) == len(others) + 1


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_damage_is_said_and_the_next_launch_rebuilds(tmp_path, source, damage):
    ensure_pools(tmp_path, [KEY], lambda: source, 4)
    shard = tmp_path / KEY.name / "shard-00000.bin"
    if damage == "flip":
        content = bytearray(shard.read_bytes())
        content[100] ^= 1
        shard.write_bytes(content)
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-2])
    elif damage == "remove":
        shard.unlink()
    else:
        (tmp_path / KEY.name / "manifest.json").write_text("{")
    with pytest.raises(CacheError, match="moved to"):
        open_pool(tmp_path, KEY)
    ensure_pools(tmp_path, [KEY], lambda: source, 4)
    assert open_pool(tmp_path, KEY).tokens == 500


def test_not_enough_disk_is_said_before_the_pass(tmp_path, source, monkeypatch):
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(activations.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match=r"need 32,000 bytes and 10 are free"):
        ensure_pools(tmp_path, [KEY], lambda: source, 4)


def test_an_activation_beyond_float16_is_said(tmp_path, source):
    lm, windows = source
    lm.blocks[1].register_forward_hook(lambda m, i, o: o * 1e9)
    with pytest.raises(CacheError, match="cache_dtype=bfloat16"):
        ensure_pools(tmp_path, [KEY], lambda: source, 4)
    assert not list(tmp_path.glob("*writing*"))


def _slow_pass(folder, source, started):
    lm, windows = source

    def on_progress(done, total):
        started.set()
        time.sleep(0.05)

    ensure_pools(folder, [KEY], lambda: (lm, windows), 1, on_progress=on_progress)


def test_a_killed_writer_leaves_nothing_and_frees_the_lock(tmp_path, source):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    writer = context.Process(target=_slow_pass, args=(tmp_path, source, started))
    torch.set_num_threads(1)  # a forked child must not wait for the parent's thread pool
    writer.start()
    assert started.wait(30)
    assert open_pool(tmp_path, KEY) is None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert open_pool(tmp_path, KEY) is None and list(tmp_path.glob("*writing*"))
    ensure_pools(tmp_path, [KEY], lambda: source, 4)
    assert open_pool(tmp_path, KEY).tokens == 500 and not list(tmp_path.glob("*writing*"))
    torch.set_num_threads(2)


def test_two_processes_one_writes_the_other_waits(tmp_path, source):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    torch.set_num_threads(1)
    writer = context.Process(target=_slow_pass, args=(tmp_path, source, started))
    writer.start()
    assert started.wait(30)
    waited = []

    def never():
        raise AssertionError("the other process's pass was to be waited for")

    ensure_pools(tmp_path, [KEY], never, 4, on_wait=lambda: waited.append(1))
    writer.join()
    torch.set_num_threads(2)
    assert waited == [1] and open_pool(tmp_path, KEY).tokens == 500


def test_the_manifest_says_what_it_holds(tmp_path, source):
    ensure_pools(tmp_path, [KEY], lambda: source, 4)
    manifest = json.loads((tmp_path / KEY.name / "manifest.json").read_text())
    assert manifest["key"]["layer"] == 1 and manifest["tokens"] == 500 and len(manifest["shards"][0]["sha256"]) == 64
