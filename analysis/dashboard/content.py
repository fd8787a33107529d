"""All that a dashboard is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from analysis.dashboard.dominance import Dominance, colours, dominance
from analysis.dashboard.shown import Shown


class Content(NamedTuple):
    shown: Shown
    colours: Mapping[str, str]  # #rrggbb by arm
    table: Dominance
    project: str

    @property
    def run_colours(self) -> dict[str, str]:
        """Each run's: that of its arm."""
        return {run_id: self.colours[arm] for run_id, arm in self.shown.arms.items()}


def gather(shown: Shown, runs_dir: Path, project: str) -> Content:
    return Content(shown, colours(shown.arms.values()), dominance(runs_dir, shown.arms), project)
