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

from sweep.activations import cache as activations
from sweep.activations import capture, parts, writer
from sweep.activations.cache import CacheError, CacheKey, norms_of_entry, open_pool
from sweep.activations.capture import ensure_pools
from sweep.activations.held_out import HeldOutKey, ensure_held_out, open_held_out
from sweep.corpus import TextCorpus
from sweep.corpus.windows import WindowConfig, train_windows
from sweep.lm.blocks import stream_of
from sweep.lm.find import ModelConfig, find_model
from sweep.lm.model import load_lm
from sweep.lm.ordinary import OutlierRule

KEY = CacheKey("w", "float32", 1, "resid_post", "c", 16, "window", 500, "float16", 0)


@pytest.fixture
def lm_and_windows(model_folders, text_file, tokenizer):
    """The LM and the training windows that entries are made from."""
    config = ModelConfig(name="t", path=str(model_folders["llama"]), window=16)
    lm = load_lm(config, find_model(config), torch.device("cpu"))
    return lm, train_windows(TextCorpus(str(text_file)), tokenizer, WindowConfig(16), 500)


def given(lm_and_windows):
    """Return the functions by which `ensure_pools` gets the LM and the windows."""
    return (lambda: lm_and_windows[0]), (lambda: lm_and_windows[1])


def test_rows_are_the_lms_activations_shuffled_once(tmp_path, lm_and_windows):
    lm, windows = lm_and_windows
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 4)
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

    def lm():
        calls.append(1)
        return lm_and_windows[0]

    keys = [replace(KEY, layer=layer) for layer in (0, 2)]
    ran = []
    lm_and_windows[0].blocks[0].register_forward_hook(lambda *_: ran.append(1))
    ensure_pools(tmp_path, keys, lm, lambda: lm_and_windows[1], 4)
    batches, before = -(-len(lm_and_windows[1].tokens) // 4), len(calls)
    ensure_pools(tmp_path, keys, lm, lambda: lm_and_windows[1], 4)
    assert len(ran) == batches and len(calls) == before
    assert all(open_pool(tmp_path, key) is not None for key in keys)
    assert not torch.equal(open_pool(tmp_path, keys[0]).mean, open_pool(tmp_path, keys[1]).mean)


def test_rows_are_the_same_in_one_shard_and_in_many(tmp_path, lm_and_windows, monkeypatch):
    ensure_pools(tmp_path / "one", [KEY], *given(lm_and_windows), 4)
    monkeypatch.setattr(writer, "SHARD_ROWS", 64)
    ensure_pools(tmp_path / "many", [KEY], *given(lm_and_windows), 4)
    rows = np.random.default_rng(0).integers(0, 500, 300)
    one, many = open_pool(tmp_path / "one", KEY), open_pool(tmp_path / "many", KEY)
    assert torch.equal(one.rows(rows), many.rows(rows))


def test_bfloat16_entries_give_bfloat16_rows(tmp_path, lm_and_windows):
    key = replace(KEY, dtype="bfloat16")
    ensure_pools(tmp_path, [key], *given(lm_and_windows), 4)
    rows = open_pool(tmp_path, key).rows(np.arange(10))
    assert rows.dtype == torch.bfloat16 and rows.float().abs().sum() > 0


def test_a_change_of_any_field_of_the_key_gives_another_entry():
    values = {**KEY.__dict__, "outlier_norm": 5.0, "stream": 100}
    others = [replace(KEY, **{f: v + (1 if isinstance(v, int | float) else "x")}) for f, v in values.items()]
    assert len({KEY.name, *(o.name for o in others)}) == len(others)  # may_widen changes no name
    assert replace(KEY, may_widen=True).name == KEY.name


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_damage_is_an_error_and_the_entry_is_then_made_again(tmp_path, lm_and_windows, damage):
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 4)
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
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 4)
    assert open_pool(tmp_path, KEY).tokens == 500


def test_a_disk_that_is_too_small_is_an_error_before_the_pass(tmp_path, lm_and_windows, monkeypatch):
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(capture.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match=r"need 66,500 bytes and 10 are free"):
        ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 4)


def times(factor):
    """Return a hook that multiplies a block's output; blocks return a tensor, alone or first in a tuple."""
    return lambda m, i, o: (o[0] * factor, *o[1:]) if isinstance(o, tuple) else o * factor


def test_an_activation_beyond_float16_is_an_error_that_recommends_auto(tmp_path, lm_and_windows):
    lm_and_windows[0].blocks[1].register_forward_hook(times(1e9))
    with pytest.raises(CacheError, match="layer=1: .* beyond the range of float16; cache_dtype=auto takes bfloat16"):
        ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 4)
    assert not list(tmp_path.glob("*writing*"))


@pytest.mark.parametrize("outlier_norm", [None, 5.0])
def test_auto_takes_bfloat16_at_the_layers_that_need_it_and_says_so_to_who_asks_for_float16(
    tmp_path, lm_and_windows, outlier_norm
):
    lm_and_windows[0].blocks[1].register_forward_hook(times(1e9))
    keys = [replace(KEY, layer=layer, may_widen=True, outlier_norm=outlier_norm) for layer in (0, 1)]
    rule = OutlierRule(5.0, ())
    ensure_pools(tmp_path / "auto", keys, *given(lm_and_windows), 4, rule=lambda: rule)
    assert [open_pool(tmp_path / "auto", key).dtype for key in keys] == ["float16", "bfloat16"]
    asked = [replace(KEY, layer=1, dtype="bfloat16", outlier_norm=outlier_norm)]
    ensure_pools(tmp_path / "asked", asked, *given(lm_and_windows), 4, rule=lambda: rule)
    rows = np.arange(open_pool(tmp_path / "auto", keys[1]).tokens)
    assert torch.equal(
        open_pool(tmp_path / "auto", keys[1]).rows(rows), open_pool(tmp_path / "asked", asked[0]).rows(rows)
    )
    with pytest.raises(
        CacheError, match="cache_dtype=float16: the activations at layer=1 need bfloat16, as auto found"
    ):
        open_pool(tmp_path / "auto", replace(keys[1], may_widen=False))


def test_a_value_that_no_dtype_holds_stops_with_one_line_that_does_not_recommend_what_failed(tmp_path, lm_and_windows):
    lm_and_windows[0].blocks[1].register_forward_hook(times(3e38))
    for key in (replace(KEY, dtype="bfloat16"), replace(KEY, may_widen=True)):
        with pytest.raises(CacheError, match="layer=1: the LM's activations hold a NaN or an infinity$"):
            ensure_pools(tmp_path, [key], *given(lm_and_windows), 4)
    assert not [entry for entry in tmp_path.iterdir() if entry.suffix != ".lock"]


def make_sinks(lm, windows, factor=300.0):
    """Make the first token of every window, and one token in the middle of the third, `factor` times as long."""

    def hook(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden.clone()
        changed[:, 0] *= factor
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    lm.blocks[1].register_forward_hook(hook)


def ordinary_rows(lm, windows, special):
    """Return (rows of ordinary tokens, the median norm), by a second way: one window at a time, in plain loops."""
    tokens = []
    for row, length in zip(windows.tokens, windows.lengths, strict=True):
        hidden = lm.capture(torch.from_numpy(row[None, :length]), [1])[1][0]
        tokens += [h for i, h in zip(row[:length], hidden, strict=True) if int(i) not in special]
    median = float(np.median([float(h.norm()) for h in tokens]))
    return torch.stack([h for h in tokens if float(h.norm()) <= 5 * median]), median


@pytest.mark.parametrize("shard_rows", [64, 1 << 16])
def test_sinks_and_special_tokens_are_left_out_of_rows_and_statistics(
    tmp_path, lm_and_windows, monkeypatch, shard_rows
):
    lm, windows = lm_and_windows
    monkeypatch.setattr(writer, "SHARD_ROWS", shard_rows)
    make_sinks(lm, windows)
    special = (int(windows.tokens[1, 5]),)
    key = replace(KEY, outlier_norm=5.0)
    ensure_pools(tmp_path, [key], *given(lm_and_windows), 4, rule=lambda: OutlierRule(5.0, special))
    pool, (wanted, median) = open_pool(tmp_path, key), ordinary_rows(lm, windows, special)
    got = pool.rows(np.arange(pool.tokens)).float()
    assert pool.tokens == len(wanted) < 500 - len(windows.tokens)
    order = [sorted(map(tuple, rows.half().float().tolist())) for rows in (got, wanted)]
    torch.testing.assert_close(torch.tensor(order[0]), torch.tensor(order[1]), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(pool.mean, wanted.mean(0), atol=1e-3, rtol=1e-3)
    assert pool.mean_norm == pytest.approx(float(wanted.norm(dim=1).mean()), rel=1e-3)
    assert pool.total_variance == pytest.approx(float((wanted - wanted.mean(0)).square().sum(1).mean()), rel=1e-2)
    norms = pool.norms
    assert norms.median == pytest.approx(median, rel=1e-4)
    assert norms.captured == 500 and pool.tokens == 500 - norms.special - norms.outliers
    assert norms.special == int((windows.tokens[windows.mask()] == special[0]).sum())
    assert norms.largest > 50 * norms.median and norms_of_entry(tmp_path, key) == norms


def test_all_tokens_stay_where_the_key_keeps_them_and_the_manifest_still_counts_outliers(tmp_path, lm_and_windows):
    lm, windows = lm_and_windows
    make_sinks(lm, windows)
    ensure_pools(tmp_path / "plain", [KEY], *given(lm_and_windows), 4)
    ensure_pools(tmp_path / "told", [KEY], *given(lm_and_windows), 4, rule=lambda: OutlierRule(5.0, ()))
    plain, told = open_pool(tmp_path / "plain", KEY), open_pool(tmp_path / "told", KEY)
    assert torch.equal(plain.rows(np.arange(500)), told.rows(np.arange(500))) and plain.mean_norm == told.mean_norm
    assert plain.norms is None and told.norms.outliers == len(windows.tokens) and told.tokens == 500


def test_where_no_token_is_an_outlier_the_rows_are_those_of_all_tokens(tmp_path, lm_and_windows):
    key = replace(KEY, outlier_norm=50.0)
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 4)
    ensure_pools(tmp_path, [key], *given(lm_and_windows), 4, rule=lambda: OutlierRule(50.0, ()))
    every, ordinary = open_pool(tmp_path, KEY), open_pool(tmp_path, key)
    assert torch.equal(every.rows(np.arange(500)), ordinary.rows(np.arange(500)))
    assert ordinary.mean_norm == pytest.approx(every.mean_norm, rel=1e-12)


def a_slow_pass(folder, lm_and_windows, made):
    """Make the entry slowly, one window a part; put the number of tokens done into `made` after each part."""
    lm, windows = lm_and_windows

    def on_progress(done, total):
        made.value = done
        time.sleep(0.02)

    parts.PART_TOKENS = 1
    ensure_pools(folder, [KEY], lambda: lm, lambda: windows, 1, on_progress=on_progress)


@pytest.fixture
def slow(tmp_path, lm_and_windows, monkeypatch):
    """Return a function that starts a process which makes the entry, a window at a time, and (process, tokens done)."""
    monkeypatch.setattr(parts, "PART_TOKENS", 1)
    context, started = multiprocessing.get_context("fork"), []
    torch.set_num_threads(1)  # a forked child must not wait for the parent's thread pool

    def start():
        made = context.Value("i", 0)
        process = context.Process(target=a_slow_pass, args=(tmp_path, lm_and_windows, made))
        process.start()
        started.append(process)
        return process, made

    yield start
    torch.set_num_threads(2)
    for process in started:
        process.kill()


def until(condition):
    """Wait until the condition holds."""
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def test_a_killed_pass_goes_on_where_it_was(tmp_path, lm_and_windows, slow):
    lm, windows = lm_and_windows
    ensure_pools(tmp_path / "alone", [KEY], *given(lm_and_windows), 1)
    process, made = slow()
    until(lambda: made.value > 100)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert open_pool(tmp_path, KEY) is None
    there, ran = len(list(tmp_path.glob("*.parts-*/*.safetensors"))), []
    lm.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 1)
    assert len(ran) == len(windows.tokens) - there < len(windows.tokens)
    assert not [path for path in tmp_path.iterdir() if "parts" in path.name or "writing" in path.name]
    rows = np.arange(500)
    assert torch.equal(open_pool(tmp_path, KEY).rows(rows), open_pool(tmp_path / "alone", KEY).rows(rows))


def test_two_processes_make_a_pass_together_with_the_same_result(tmp_path, lm_and_windows, slow):
    lm, windows = lm_and_windows
    ensure_pools(tmp_path / "alone", [KEY], *given(lm_and_windows), 1)
    process, made = slow()
    until(lambda: made.value > 0)
    ran, told = [], []
    lm.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 1, on_progress=lambda done, total: told.append((done, total)))
    process.join()
    assert 0 < len(ran) < len(windows.tokens) and process.exitcode == 0  # each did some
    assert told == sorted(told) and told[-1] == (500, 500)
    for file in ("manifest.json", "shard-00000.bin"):
        ours, alone = (folder / KEY.name / file for folder in (tmp_path, tmp_path / "alone"))
        assert ours.read_bytes() == alone.read_bytes()


def test_a_part_that_is_damaged_is_made_again(tmp_path, lm_and_windows, monkeypatch):
    ensure_pools(tmp_path / "alone", [KEY], *given(lm_and_windows), 1)
    monkeypatch.setattr(parts, "PART_TOKENS", 1)
    real, seen = capture.EntryWriter.add, []

    def add(writer, *given):
        if not seen:
            file = sorted(tmp_path.glob("*.parts-*/*.safetensors"))[-1]
            file.write_bytes(file.read_bytes()[:50])
            seen.append(file)
        real(writer, *given)

    monkeypatch.setattr(capture.EntryWriter, "add", add)
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 1)
    rows = np.arange(500)
    assert seen and torch.equal(open_pool(tmp_path, KEY).rows(rows), open_pool(tmp_path / "alone", KEY).rows(rows))


def test_windows_run_in_the_order_of_their_lengths_and_no_further_than_they_reach(tmp_path, lm_and_windows):
    lm, windows = lm_and_windows
    shapes = []
    lm.blocks[0].register_forward_hook(lambda _m, _i, out: shapes.append(stream_of(out).shape[:2]))
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 4)
    lengths = sorted(windows.lengths, reverse=True)
    assert lengths[0] > lengths[-1] and [length for _, length in shapes] == lengths[::4]
    assert sum(a * b for a, b in shapes) < windows.tokens.size


def held_out_key(windows, layer=1):
    return HeldOutKey("w", "float32", layer, "resid_post", windows.digest())


def test_held_out_activations_are_kept_as_the_lm_computes_them(tmp_path, lm_and_windows):
    lm, windows = lm_and_windows
    keys = [held_out_key(windows, layer) for layer in (0, 1)]
    ensure_held_out(tmp_path, keys, lambda: lm, windows, 4)

    def never():
        raise AssertionError("they are there")

    ensure_held_out(tmp_path, keys, never, windows, 4)
    assert not [path for path in (tmp_path / "held-out").iterdir() if "parts" in path.name or "writing" in path.name]
    for key in keys:
        kept, real = open_held_out(tmp_path, key, windows), torch.from_numpy(windows.mask())
        hidden = lm.capture(torch.from_numpy(windows.tokens), [key.layer])[key.layer]
        every = kept.of(slice(0, len(windows.tokens)))
        torch.testing.assert_close(every[real], hidden[real], rtol=1e-5, atol=1e-5)
        assert not every[~real].any() and torch.equal(kept.of(slice(3, 7)), every[3:7])


def test_damaged_held_out_activations_are_made_again(tmp_path, lm_and_windows):
    lm, windows = lm_and_windows
    key = held_out_key(windows)
    ensure_held_out(tmp_path, [key], lambda: lm, windows, 4)
    before = open_held_out(tmp_path, key, windows).of(slice(0, 99))
    file = key.folder(tmp_path) / "activations.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    assert open_held_out(tmp_path, key, windows) is None and not file.exists()
    ensure_held_out(tmp_path, [key], lambda: lm, windows, 4)
    assert torch.equal(open_held_out(tmp_path, key, windows).of(slice(0, 99)), before)


def test_the_manifest_holds_the_key_the_tokens_and_the_checksums(tmp_path, lm_and_windows):
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 4)
    manifest = json.loads((tmp_path / KEY.name / "manifest.json").read_text())
    assert manifest["key"]["layer"] == 1 and manifest["tokens"] == 500 and len(manifest["shards"][0]["sha256"]) == 64


@pytest.mark.parametrize("where", ["manifest", "shard"])
def test_an_entry_that_may_not_be_read_stays_as_it_is(tmp_path, lm_and_windows, monkeypatch, where):
    ensure_pools(tmp_path, [KEY], *given(lm_and_windows), 4)
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
