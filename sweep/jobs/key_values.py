"""Command lines of KEY=VALUE words, for commands that Hydra does not compose, and what they name: a run, a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sae_core.io_checks import CONFIG_FILE, WEIGHTS_FILE
from sweep.jobs.recorded import has_an_sae
from sweep.store.records import Record, read_record


def key_values(arguments: Sequence[str], needed: Mapping[str, str], optional: Mapping[str, str]) -> dict[str, str]:
    """Return {key: value} of a command's arguments.

    Args:
        needed, optional: the keys, each with a value that shows how it is written.

    Raises:
        ValueError: a key is missing, unknown or given twice, or has no value.
    """
    shown = [f"{key}={example}" for key, example in (*needed.items(), *optional.items())]
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value or key not in {*needed, *optional} or key in given:
            raise ValueError(f"{argument} must be one of {', '.join(shown[:-1])} and {shown[-1]}, each once")
        given[key] = value
    for key, example in needed.items():
        if key not in given:
            raise ValueError(f"{key}= is missing: {key}={example}")
    return given


def check_free(out: Path) -> None:
    """Raise ValueError where the folder that an SAE is to be written to holds one already."""
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if (out / name).exists():
            raise ValueError(f"out={out} holds an SAE already, which is not overwritten")


def finished_run(run_id: str, runs_dir: Path) -> Record:
    """Return the record of a finished run that left an SAE. Raise ValueError where there is none of that id."""
    record = read_record(runs_dir, run_id) if run_id.isalnum() else None
    if record is None or not has_an_sae(record):
        raise ValueError(f"run={run_id}: no finished run of that id under {runs_dir} (runs_dir)")
    return record
