"""The table that ends a launch: how it shortens what went wrong."""

from __future__ import annotations

from sweep.workers.table import _shortened


def test_many_runs_that_were_not_finished_are_one_line_and_failures_stay():
    waiting = [f"not finished: {i:016x} expander d={i}" for i in range(5)]
    first = waiting[0].removeprefix("not finished: ")
    many = _shortened([*waiting[:2], "failed: a", *waiting[2:]])
    assert many == ["failed: a", f"not finished: 5 runs, the first {first}"]
    assert _shortened([*waiting[:3], "failed: a"]) == [*waiting[:3], "failed: a"]
