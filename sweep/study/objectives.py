"""What a search can aim at: the objectives by name, the direction of each, and its value in a run's record.

    stored_bytes, learned_decoder_values        what the SAE stores; less is better
    ce_recovered, ce_recovered_mean             what it preserves of the LM's cross-entropy; more is better
    delta_ce, kl, fvu                           what it loses; less is better
    probing/FAMILY/READING/best_N               what its latents mean: the mean accuracy of probes of N latents, such as
                                                probing/code/encoder/best_5 (`sweep.store.metric_names`)
    survived                                    how many latents of an SAE that is made smaller stay what they were
                                                (`sweep.run.survival`); more is better
    coverage, feature_f1                        the same of a synthetic model, whose features are known

Measures of what is preserved are those of the codes that `hydra.sweeper.inference` finds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from sae_core.inference import ENCODER, inference_name
from sweep.jobs.job import Job
from sweep.probing.probe import BEST
from sweep.run.survival import compressed_part
from sweep.store.metric_names import PROBING, probing_means
from sweep.store.records import Record

Direction = Literal["minimize", "maximize"]

STORED, VALUES, RECOVERED, SURVIVED = "stored_bytes", "learned_decoder_values", "ce_recovered", "survived"
_IN_STORAGE = {STORED: "artifact_bytes", VALUES: VALUES}  # objective: its key in a record's `storage`
_OF_AN_LM: dict[str, Direction] = {
    RECOVERED: "maximize",
    "ce_recovered_mean": "maximize",
    "delta_ce": "minimize",
    "kl": "minimize",
}
_OF_SAMPLES: dict[str, Direction] = {"coverage": "maximize", "feature_f1": "maximize"}
_PRESERVED: dict[str, Direction] = {**_OF_AN_LM, "fvu": "minimize"}
_DIRECTIONS: dict[str, Direction] = {
    **dict.fromkeys(_IN_STORAGE, "minimize"),
    **_PRESERVED,
    **_OF_SAMPLES,
    SURVIVED: "maximize",
}


class UndefinedError(ValueError):
    """A complete record has no value of an objective, so that its run has no rank."""


class Probe(NamedTuple):
    """A probing objective, read from its name."""

    family: str
    reading: str


def direction(name: str) -> Direction:
    """Return the direction of an objective. Raises ValueError if there is none of that name."""
    if name in _DIRECTIONS:
        return _DIRECTIONS[name]
    _probe(name)
    return "maximize"


def is_foretold(name: str) -> bool:
    """Tell whether a low FVU during training is a sign of a good value in the end: not so of sizes and of meaning."""
    return name in _PRESERVED


def check_measured(name: str, job: Job) -> None:
    """Raise ValueError if the record of `job` will have no value of the objective."""
    synthetic, evaluation = job.spec.synthetic is not None, job.spec.eval
    if synthetic and (name in _OF_AN_LM or name.startswith(PROBING)):
        raise ValueError(f"model=synthetic has no LM, and so no {name} to search: give hydra.sweeper.objectives")
    if not synthetic and name in _OF_SAMPLES:
        raise ValueError(f"hydra.sweeper.objectives: {name} needs known features: model=synthetic has some")
    if name == SURVIVED and (synthetic or compressed_part(job.spec.arm) is None):
        raise ValueError(f"hydra.sweeper.objectives: {name} is of an SAE that is made smaller: sae=compressed")
    if name in _DIRECTIONS:
        return
    probe = _probe(name)
    if probe.family not in evaluation.probing:
        raise ValueError(f"hydra.sweeper.objectives: {name} is not measured: add eval.probing=[{probe.family}]")
    if probe.reading not in evaluation.inference:
        raise ValueError(f"hydra.sweeper.objectives: {name} is not measured: add eval.inference=[{probe.reading}]")


def value_in(record: Record, name: str, inference: str) -> float:
    """Return the value of an objective in a complete record.

    Raises:
        UndefinedError: there is none; says why.
    """
    if name in _IN_STORAGE:
        return float(record["storage"][_IN_STORAGE[name]])
    if name == SURVIVED:
        return float(record["survival"][SURVIVED])
    if name not in _DIRECTIONS:
        value = probing_means(record.get("probing", {})).get(name)
        if value is None:
            family = record.get("probing", {}).get(_probe(name).family, {})
            raise UndefinedError(f"no {name}: {family.get('error', 'not measured')}")
        return value
    metrics = metrics_of(record, inference)
    value = metrics.get(name)
    if name in metrics and value is None:
        ablation = "mean" if name.endswith("_mean") else "zero"
        raise UndefinedError(
            f"{_called(name)} is undefined, so the run has no rank: {ablation} ablation does not clearly cost the LM "
            f"anything (from {metrics['ce_clean']:.4f} to {metrics[f'ce_{ablation}']:.4f} nats)"
        )
    if value is None or not math.isfinite(value):
        reading = record.get("inference", {}).get(inference, {})
        raise UndefinedError(f"no {_called(name)} by {inference}: {reading.get('error', 'not measured')}")
    return float(value)


def metrics_of(record: Record, inference: str) -> Mapping[str, Any]:
    """Return a record's metrics with the codes found by `inference`; empty where that was not measured."""
    if inference == ENCODER:
        return record["metrics"]
    return record.get("inference", {}).get(inference, {}).get("metrics", {})


def _called(name: str) -> str:
    """Return an objective as messages have it."""
    return name.replace("ce_recovered", "CE recovered").replace("_mean", " against mean ablation")


def _probe(name: str) -> Probe:
    """Return the probing objective of that name. Raises ValueError where there is none."""
    found = re.fullmatch(rf"{PROBING}(\w+)/(\w+)/best_(\d+)", name)
    if found is None:
        known = f"{', '.join(_DIRECTIONS)}, or {PROBING}FAMILY/READING/best_N"
        raise ValueError(f"{name} is unknown: choose from {known}")
    family, reading, best = found.groups()
    if int(best) not in BEST:
        raise ValueError(f"{name} is unknown: probes are of {', '.join(map(str, BEST))} latents")
    if inference_name(reading) != reading:
        raise ValueError(f"{name} is unknown: write {inference_name(reading)} for {reading}")
    return Probe(family, reading)
