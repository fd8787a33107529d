"""What `analysis` says of the runs: the dominance table, and the colours that its figures give the arms.

`sweep` imports nothing of `analysis`, so it is asked as a process, as a user would.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

Row = dict[str, str]  # of dominance.csv
_COLOURS = (
    "import json, sys; from analysis import arms; print(json.dumps({arm: arms.colour(arm) for arm in sys.argv[1:]}))"
)


class Dominance(NamedTuple):
    rows: list[Row]
    notes: list[str]  # what was left out of it; why there is none


def colours(arms: Iterable[str]) -> dict[str, str]:
    """#rrggbb of each arm, the same as in every figure."""
    command = [sys.executable, "-c", _COLOURS, *sorted(set(arms))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def dominance(runs_dir: Path, run_ids: Iterable[str]) -> Dominance:
    """`python -m analysis dominance` of those runs."""
    with tempfile.TemporaryDirectory() as folder:
        study, out = Path(folder, "runs.csv"), Path(folder, "out")
        study.write_text("".join(f"{line}\n" for line in ("run_id", *run_ids)))
        command = [sys.executable, "-m", "analysis", "dominance", "--runs", str(runs_dir), "--study", str(study)]
        done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
        said = _without_paths(done.stderr, study, runs_dir).splitlines()
        if done.returncode:
            return Dominance([], [said[-1].removeprefix("error: ") if said else "analysis failed"])
        with (out / "dominance.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    return Dominance(rows, [line.removeprefix("note: ") for line in said if line.startswith("note: ")])


def _without_paths(said: str, study: Path, runs_dir: Path) -> str:
    """Others read the report: where the runs lie on this machine is nothing to them."""
    for place in (f"--study {study}: ", f"--runs {runs_dir}: ", f" in --runs {runs_dir}", f" in {runs_dir}"):
        said = said.replace(place, "")
    return said.replace(str(study), "the sweep")
