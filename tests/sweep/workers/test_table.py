"""The table that ends a launch: how it shortens what went wrong."""

from __future__ import annotations

import io

from rich.console import Console

from sweep.workers.table import _print, _shortened


def test_no_cell_is_cut_on_a_narrow_terminal_however_long_a_label_is():
    console = Console(file=io.StringIO(), width=40)
    cells = [
        "0123456789abcdef",
        "dense_matched+batch_topk-2bit_trained_fourier_from0.25",
        *"1234",
        "0.8913 ± 0.0012",
        "done",
    ]
    columns = ["run", "arm", "d", "k", "n", "seed", "CE recovered", "status"]
    assert _print(console, columns, [(cells, "an error"), (cells, "")]) == ["an error"]
    printed = console.file.getvalue().splitlines()
    assert sum(line.split() == " ".join(cells).split() for line in printed) == 2


def test_many_runs_that_were_not_finished_are_one_line_and_failures_stay():
    waiting = [f"not finished: {i:016x} expander d={i}" for i in range(5)]
    first = waiting[0].removeprefix("not finished: ")
    many = _shortened([*waiting[:2], "failed: a", *waiting[2:]])
    assert many == ["failed: a", f"not finished: 5 runs, the first {first}"]
    assert _shortened([*waiting[:3], "failed: a"]) == [*waiting[:3], "failed: a"]
