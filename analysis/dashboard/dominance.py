"""The dominance table of a dashboard's report, from `analysis.tables`, and the arms' colours, as in every figure."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from analysis import arms
from analysis.frames import dicts
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.dominance import dominance_table

Row = dict[str, Any]  # a row of `analysis.tables.dominance.dominance_table`


class Dominance(NamedTuple):
    """The table as the report shows it."""

    rows: list[Row]
    notes: list[str]  # what the table leaves out; the reason, where there are no rows


def colours(labels: Iterable[str]) -> dict[str, str]:
    """Return the colour of each arm as #rrggbb, the same as in every figure, in the order of the arms' labels."""
    return {label: arms.colour(label) for label in sorted(set(labels))}


def dominance(runs_dir: Path, run_ids: Iterable[str]) -> Dominance:
    """Return the dominance table of the runs `run_ids` of one run store."""
    messages = StringIO()
    try:
        with redirect_stderr(messages):  # reading prints there what it leaves out; a report has that in its text
            records = Records.read(runs_dir).only(set(run_ids), "the sweep")
            rows = dicts(dominance_table(records.readings))
    except NoRunsError as error:
        return Dominance([], [_without_folder(str(error), runs_dir)])
    notes = [line.removeprefix("note: ") for line in messages.getvalue().splitlines() if line.startswith("note: ")]
    return Dominance(rows, [_without_folder(note, runs_dir) for note in notes])


def _without_folder(text: str, runs_dir: Path) -> str:
    """Return a message without the path of the run store, which means nothing to others who read the report."""
    return text.replace(f"--runs {runs_dir}: ", "").replace(f" in --runs {runs_dir}", "")
