"""What a command may be told to read, and that there is nothing in it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

EMBEDDED = "embedded"  # the records that ship with the project
URL = "url"  # in a record read back from Weights & Biases: the run's page


class NoRunsError(ValueError):
    """There is nothing to draw."""


class Remote(NamedTuple):
    """Runs of a W&B project.

    Args:
        project: ENTITY/PROJECT.
        groups: the sweeps wanted, by name; none for all.
        cache: where downloaded records are kept.
    """

    project: str
    groups: tuple[str, ...] = ()
    cache: Path = Path(".cache/wandb")

    def __str__(self) -> str:
        return f"{self.project}, group {' '.join(self.groups)}" if self.groups else self.project


Source = str | Path | Remote


def named(source: Source) -> str:
    """The source as the command line has it."""
    return f"--wandb {source}" if isinstance(source, Remote) else f"--runs {source}"
