"""Sources: the places that a command reads records from, and the error that one of them holds nothing to draw."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

# The sources that ship with the project: records of the embedded LM and of SmolLM2-135M, each at one n; of a synthetic
# model; and of both LMs at other n.
SHIPPED = ("embedded", "smollm2", "synthetic", "sizes", "million")
URL = "url"  # the key of a run's page in Weights & Biases, in a record read from there


class NoRunsError(ValueError):
    """The records that were asked for hold nothing to draw; the message says what to ask for or to run instead."""


class Remote(NamedTuple):
    """A project in Weights & Biases as a source: its runs, or those of some sweeps.

    Args:
        project: ENTITY/PROJECT.
        groups: names of the sweeps wanted; none for all.
        cache: the folder in which downloaded records are kept.
    """

    project: str
    groups: tuple[str, ...] = ()
    cache: Path = Path(".cache/wandb")

    def __str__(self) -> str:
        return f"{self.project}, group {' '.join(self.groups)}" if self.groups else self.project


Source = str | Path | Remote  # a folder of runs, a packed file of records, one of SHIPPED, or a project of W&B


def named(source: Source) -> str:
    """Return the source as an option of the command line names it, for messages."""
    return f"--wandb {source}" if isinstance(source, Remote) else f"--runs {source}"
