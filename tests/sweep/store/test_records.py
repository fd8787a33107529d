from __future__ import annotations

import json
import multiprocessing
import os
import signal

import pytest

from sweep.store import launches, records
from sweep.store.records import SCHEMA, UnreadableError, iterate_records, read_record, write_record


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


def test_a_record_that_may_not_be_read_is_neither_missing_nor_damaged(tmp_path, monkeypatch):
    write_record(tmp_path, record("a"))

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(records, "_read", denied)
    with pytest.raises(UnreadableError, match=r"a/record.json cannot be read \(Permission denied\)"):
        read_record(tmp_path, "a")
    about = {"started": "2026-01-01T00:00:00+00:00", "runs": [{"run_id": "a", "title": "t"}]}
    (state,) = launches.states(launches.Launch(tmp_path, about), tmp_path)
    assert state.state == launches.FAILED and "cannot be read" in state.detail


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
