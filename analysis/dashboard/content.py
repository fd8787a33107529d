"""The content of a dashboard, gathered from the run store before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from analysis.dashboard.dominance import Dominance, colours, dominance
from analysis.dashboard.meaning import measured
from analysis.dashboard.shown import Shown


class Content(NamedTuple):
    """The content of a workspace and a report."""

    shown: Shown
    colours: Mapping[str, str]  # #rrggbb by arm
    table: Dominance
    project: str
    meaning: tuple[str, ...] = ()  # the names of the measures of meaning that the runs have

    @property
    def run_colours(self) -> dict[str, str]:
        """The colour of each run id, which is that of the run's arm."""
        return {run_id: self.colours[arm] for run_id, arm in self.shown.arms.items()}


def gather(shown: Shown, runs_dir: Path, project: str) -> Content:
    """Return the content of a dashboard of the runs `shown`, read from the run store `runs_dir`."""
    table, names = dominance(runs_dir, shown.arms), measured(runs_dir, shown.arms)
    return Content(shown, colours(shown.arms.values()), table, project, names)
