from __future__ import annotations

from sweep.workers.table import _few


def test_many_runs_that_were_not_finished_are_one_line_and_failures_stay():
    waiting = [f"not finished: {i:016x} expander d={i}" for i in range(5)]
    assert _few([*waiting[:2], "failed: a", *waiting[2:]]) == ["failed: a", "not finished: 5 runs, the first " +
                                                              waiting[0].removeprefix("not finished: ")]  # fmt: skip
    assert _few([*waiting[:3], "failed: a"]) == [*waiting[:3], "failed: a"]
