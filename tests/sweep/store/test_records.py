from __future__ import annotations

import json
import multiprocessing
import os
import signal

import pytest

from sweep.store.records import SCHEMA, iterate_records, read_record, write_record


def record(run_id="a", status="complete"):
    return {"schema": SCHEMA, "run_id": run_id, "status": status, "metrics": {"x": list(range(2000))}}


def test_a_written_record_is_read_back(tmp_path):
    write_record(tmp_path, record())
    assert read_record(tmp_path, "a") == record()
    assert read_record(tmp_path, "b") is None


def test_unreadable_records_are_none_beside_the_others(tmp_path):
    write_record(tmp_path, record("a"))
    for name, text in (("b", "{"), ("c", "[]"), ("d", json.dumps({"schema": 99, "status": "complete"}))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    got = [r and r["run_id"] for _, r in iterate_records(tmp_path)]
    assert got == ["a", None, None, None]
    assert read_record(tmp_path, "b") is None


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_record(tmp_path, {**record(), "bad": float("nan")})
    assert os.listdir(tmp_path / "a") == []


def _write_for_ever(folder):
    for i in range(10**9):
        write_record(folder, {**record(), "i": i})


def test_a_writer_killed_at_any_moment_leaves_a_whole_record(tmp_path):
    for _ in range(8):
        process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(tmp_path,))
        process.start()
        process.join(0.15)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = read_record(tmp_path, "a")
        assert found is not None and len(found["metrics"]["x"]) == 2000
