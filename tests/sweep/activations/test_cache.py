"""The activation cache: its rows and statistics, and what happens with damage, full disks and several processes."""

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
from sweep.corpus import TextCorpus
from sweep.corpus.windows import WindowConfig, train_windows
from sweep.lm.find import ModelConfig, find_model
from sweep.lm.model import load_lm

KEY = CacheKey("w", "float32", 1, "resid_post", "c", 16, "window", 500, "float16", 0)


@pytest.fixture
def lm_and_windows(model_folders, text_file, tokenizer):
    """The LM and the training windows that entries are made from."""
    config = ModelConfig(name="t", path=str(model_folders["llama"]), window=16)
    lm = load_lm(config, find_model(config), torch.device("cpu"))
    return lm, train_windows(TextCorpus(str(text_file)), tokenizer, WindowConfig(16), 500)


def test_rows_are_the_lms_activations_shuffled_once(tmp_path, lm_and_windows):
    lm, windows = lm_and_windows
    ensure_pools(tmp_path, [KEY], lambda: lm_and_windows, batch_size=4)
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


def test_several_layers_take_one_lm_pass_and_entries_that_are_there_take_none(tmp_path, lm_and_windows):
    calls = []

    def load():
        calls.append(1)
        return lm_and_windows

    keys = [replace(KEY, layer=layer) for layer in (0, 2)]
    ensure_pools(tmp_path, keys, load, 4)
    ensure_pools(tmp_path, keys, load, 4)
    assert len(calls) == 1
    assert all(open_pool(tmp_path, key) is not None for key in keys)
    assert not torch.equal(open_pool(tmp_path, keys[0]).mean, open_pool(tmp_path, keys[1]).mean)


def test_rows_are_the_same_in_one_shard_and_in_many(tmp_path, lm_and_windows, monkeypatch):
    ensure_pools(tmp_path / "one", [KEY], lambda: lm_and_windows, 4)
    monkeypatch.setattr(activations, "SHARD_ROWS", 64)
    ensure_pools(tmp_path / "many", [KEY], lambda: lm_and_windows, 4)
    rows = np.random.default_rng(0).integers(0, 500, 300)
    one, many = open_pool(tmp_path / "one", KEY), open_pool(tmp_path / "many", KEY)
    assert torch.equal(one.rows(rows), many.rows(rows))


def test_bfloat16_entries_give_bfloat16_rows(tmp_path, lm_and_windows):
    key = replace(KEY, dtype="bfloat16")
    ensure_pools(tmp_path, [key], lambda: lm_and_windows, 4)
    rows = open_pool(tmp_path, key).rows(np.arange(10))
    assert rows.dtype == torch.bfloat16 and rows.float().abs().sum() > 0


def test_a_change_of_any_field_of_the_key_gives_another_entry():
    others = [replace(KEY, **{f: (v + 1 if isinstance(v, int) else v + "x")}) for f, v in KEY.__dict__.items()]
    assert len({KEY.name, *(o.name for o in others)}) == len(others) + 1


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_damage_is_an_error_and_the_entry_is_then_made_again(tmp_path, lm_and_windows, damage):
    ensure_pools(tmp_path, [KEY], lambda: lm_and_windows, 4)
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
    ensure_pools(tmp_path, [KEY], lambda: lm_and_windows, 4)
    assert open_pool(tmp_path, KEY).tokens == 500


def test_a_disk_that_is_too_small_is_an_error_before_the_pass(tmp_path, lm_and_windows, monkeypatch):
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(activations.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match=r"need 32,000 bytes and 10 are free"):
        ensure_pools(tmp_path, [KEY], lambda: lm_and_windows, 4)


def test_an_activation_beyond_float16_is_an_error_that_recommends_bfloat16(tmp_path, lm_and_windows):
    lm, windows = lm_and_windows
    lm.blocks[1].register_forward_hook(lambda m, i, o: o * 1e9)
    with pytest.raises(CacheError, match="cache_dtype=bfloat16"):
        ensure_pools(tmp_path, [KEY], lambda: lm_and_windows, 4)
    assert not list(tmp_path.glob("*writing*"))


def _slow_pass(folder, lm_and_windows, started):
    """Make the entry slowly; set the event `started` once the pass is under way."""
    lm, windows = lm_and_windows

    def on_progress(done, total):
        started.set()
        time.sleep(0.05)

    ensure_pools(folder, [KEY], lambda: (lm, windows), 1, on_progress=on_progress)


def test_a_killed_writer_leaves_nothing_and_frees_the_lock(tmp_path, lm_and_windows):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    writer = context.Process(target=_slow_pass, args=(tmp_path, lm_and_windows, started))
    torch.set_num_threads(1)  # a forked child must not wait for the parent's thread pool
    writer.start()
    assert started.wait(30)
    assert open_pool(tmp_path, KEY) is None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert open_pool(tmp_path, KEY) is None and list(tmp_path.glob("*writing*"))
    ensure_pools(tmp_path, [KEY], lambda: lm_and_windows, 4)
    assert open_pool(tmp_path, KEY).tokens == 500 and not list(tmp_path.glob("*writing*"))
    torch.set_num_threads(2)


def test_of_two_processes_one_writes_and_the_other_waits(tmp_path, lm_and_windows):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    torch.set_num_threads(1)
    writer = context.Process(target=_slow_pass, args=(tmp_path, lm_and_windows, started))
    writer.start()
    assert started.wait(30)
    waited = []

    def never():
        raise AssertionError("this process must wait for the other one's pass")

    ensure_pools(tmp_path, [KEY], never, 4, on_wait=lambda: waited.append(1))
    writer.join()
    torch.set_num_threads(2)
    assert waited == [1] and open_pool(tmp_path, KEY).tokens == 500


def test_the_manifest_holds_the_key_the_tokens_and_the_checksums(tmp_path, lm_and_windows):
    ensure_pools(tmp_path, [KEY], lambda: lm_and_windows, 4)
    manifest = json.loads((tmp_path / KEY.name / "manifest.json").read_text())
    assert manifest["key"]["layer"] == 1 and manifest["tokens"] == 500 and len(manifest["shards"][0]["sha256"]) == 64


@pytest.mark.parametrize("where", ["manifest", "shard"])
def test_an_entry_that_may_not_be_read_stays_as_it_is(tmp_path, lm_and_windows, monkeypatch, where):
    ensure_pools(tmp_path, [KEY], lambda: lm_and_windows, batch_size=4)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))

    def denied(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    if where == "manifest":
        monkeypatch.setattr(activations.Path, "read_text", denied)
    else:
        monkeypatch.setattr(activations, "file_hash", denied)
    with pytest.raises(activations.UnreadableEntryError, match=r"cannot be read \(Permission denied\)"):
        open_pool(tmp_path, KEY)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
