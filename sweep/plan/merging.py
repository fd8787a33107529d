"""Cells of a sweep that ask for the same run: it is made once, with every measurement that any of them asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from sweep.jobs.job import AnyJob, Job
from sweep.measures.config import EvalConfig

# Settings that change no result and add none, so a run has one value of each: keys, or groups of them.
ONE_VALUE = (
    *("runs_dir", "cache_dir", "cache", "device", "backend", "threads", "tracker", "launch", "plan"),
    *("train.checkpoint_every", "model.batch_size"),
)


def merged(one: AnyJob, other: AnyJob) -> AnyJob:
    """Return the job of one run that makes the measurements of both.

    Raises:
        ValueError: the two have different values of a setting that changes no result, such as runs_dir.
    """
    for key in ONE_VALUE:
        _check_same(key, one.settings, other.settings, one.title)
    if not isinstance(one, Job) or not isinstance(other, Job):
        return one
    evaluation, artifact = _both(one.spec.eval, other.spec.eval), one.save_artifact or other.save_artifact
    asked = {key: asdict(evaluation)[key] for key in ("inference", "novelty", "contexts")}
    asked["inference"] = list(asked["inference"])
    settings = {**one.settings, "eval": {**one.settings["eval"], **asked}, "save_artifact": artifact}
    return replace(one, spec=replace(one.spec, eval=evaluation), settings=settings, save_artifact=artifact)


def wishes(job: AnyJob) -> tuple[Any, ...]:
    """Return what a job asks for beside its run: measurements, and whether the SAE is kept as an artifact."""
    return (job.spec.eval, job.save_artifact) if isinstance(job, Job) else ()


def in_words(job: AnyJob) -> str:
    """Return the measurements of a job as a user asks for them."""
    if not isinstance(job, Job):
        return ""
    asked = job.spec.eval
    words = [f"eval.inference=[{','.join(asked.inference)}]"]
    words += ["eval.novelty=true"] if asked.novelty else []
    words += [f"eval.contexts={asked.contexts}"] if asked.contexts else []
    return " ".join([*words, *(["save_artifact=true"] if job.save_artifact else [])])


def _both(one: EvalConfig, other: EvalConfig) -> EvalConfig:
    return replace(
        one,
        inference=tuple(dict.fromkeys((*one.inference, *other.inference))),
        novelty=one.novelty or other.novelty,
        contexts=max(one.contexts, other.contexts),
    )


def _check_same(key: str, one: Any, other: Any, title: str) -> None:
    """Raise ValueError where two jobs' settings differ in `key`, or in a part of it; name that part."""
    for part in key.split("."):
        one, other = (value.get(part) if isinstance(value, Mapping) else None for value in (one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for part in {**one, **other}:
            _check_same_value(f"{key}.{part}", one.get(part), other.get(part), title)
    else:
        _check_same_value(key, one, other, title)


def _check_same_value(key: str, one: Any, other: Any, title: str) -> None:
    if one != other:
        raise ValueError(f"{key}={one} and {key}={other} ask for the same run, {title}: give one value")
