"""The jobs of finished runs, made again from the config that their records keep."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from sweep.jobs.build import build_job
from sweep.jobs.job import Job
from sweep.jobs.overrides import literal
from sweep.store.records import COMPLETE, RECOVERY, Record

# Settings of which a finished run's result does not depend, or that say where the LM and the text are now.
CHANGE_NO_RESULT = ("runs_dir", "cache_dir", "device", "backend", "threads", "model", "corpus", "tracker")


def parse_settings(arguments: list[str], may_change: Collection[str], module: str) -> DictConfig:
    """Return KEY=VALUE arguments as a config.

    Args:
        may_change: the first parts of the keys that may be given.
        module: the command, which messages point to.

    Raises:
        ValueError: an argument cannot be read, or its key is settled for a finished run.
    """
    for argument in arguments:
        if "=" not in argument:
            raise ValueError(f"{argument} is not KEY=VALUE; python -m {module} --help shows what can be given")
        part = argument.split("=", 1)[0].split(".")[0]
        if part not in may_change:
            raise ValueError(f"{part} is settled for a finished run; {', '.join(may_change)} can be given")
        try:
            OmegaConf.from_dotlist([argument])
        except Exception:  # whatever YAML makes of it
            raise ValueError(f"{argument}: its value cannot be read (a bracket or quote left open?)") from None
    return cast(DictConfig, OmegaConf.from_dotlist(arguments))


def has_an_sae(record: Record) -> bool:
    """Tell whether a record is of a finished run that left an SAE."""
    return record["status"] == COMPLETE and record.get("kind") != RECOVERY


def job_of(record: Record, given: DictConfig, runs_dir: Path) -> Job:
    """Return a run's job, from the config in its record and the settings given now.

    Raises:
        ValueError: the record is older than records with a config, or the settings make another run of it.
    """
    run_id = record["run_id"]
    if "config" not in record:
        raise ValueError(f"run={run_id} was recorded before records kept their config: launch it again as it was")
    cfg = cast(DictConfig, OmegaConf.merge(literal(record["config"]), given, literal({"runs_dir": str(runs_dir)})))
    job = build_job(cfg, record["labels"]["sweep"])
    if job.spec.run_id != run_id:
        now, then = job.spec.as_json(), record["spec"]
        raise ValueError(f"run={run_id} is not what these settings give: {_changed(now, then)} differ")
    return job


def _changed(now: Record, then: Record) -> str:
    """Return the names of the settings in which two specs differ."""
    parts = [part for part, values in now.items() if isinstance(values, dict)]
    names = [f"{part}.{key}" for part in parts for key in now[part] if now[part][key] != then.get(part, {}).get(key)]
    return ", ".join(names) or "seed"
