"""The names under which runs appear in Weights & Biases, each defined once.

The tracker logs under these names and the dashboard draws them; a test checks that the
table in `sweep/tracking/README.md` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

# Config: the keys that W&B groups and filters runs by. All of a run's settings lie one level below.
LABELS = ("model", "corpus", "arm", "sweep")
AXES = ("layer", "d", "k", "n", "seed")
SIZES = ("d_in", "n_latents", "degree")

# History: the curves of training. Their x axis is STEP.
STEP = "train/tokens"
FVU_CURVE, LOSS_CURVE, DEAD_CURVE = "train/fvu", "train/loss", "train/dead_fraction"
CURVES = {  # name -> field of `sweep.train.state.Progress`
    STEP: "tokens",
    "train/step": "step",
    LOSS_CURVE: "loss",
    FVU_CURVE: "fvu",
    "train/lr": "lr",
    DEAD_CURVE: "dead_fraction",
    "train/dead_tokens": "dead_tokens",
    "train/resampled": "resampled",
}

# Summary: the entries of a record, each under its own prefix. `sweep.store.records` explains the entries.
PREFIXES = {
    "storage": "storage/",
    "metrics": "eval/",
    "timings": "seconds/",
    "latents": "latents/",
    "training": "training/",
    "source": "source/",
    "rounding": "rounding/",
    "survival": "survival/",
}
STORAGE, EVAL = PREFIXES["storage"], PREFIXES["metrics"]
COMPRESSION = STORAGE + "compression"
STORED_BYTES = STORAGE + "artifact_bytes"
CE_RECOVERED = EVAL + "ce_recovered"
DELTA_CE = EVAL + "delta_ce"
FVU = EVAL + "fvu"
DEAD_FRACTION = EVAL + "dead_fraction"
COVERAGE, FEATURE_F1 = EVAL + "coverage", EVAL + "feature_f1"  # known features that latents stand for
STATUS, RUN_ID = "status", "run_id"
STABILITY = "stability/"  # means over the runs that the SAE was compared with
PROBING, RAW = "probing/", "raw"  # sparse probing: of the codes of a reading, or of the activations themselves


def inference_measure_name(inference: str, measure: str) -> str:
    """Return the name of a measure whose codes were found in the way `inference`: "eval/omp/fvu", for example."""
    return f"{EVAL}{inference}/{measure}"


def probing_name(family: str, reading: str, best: object) -> str:
    """Return the name of a probe's mean accuracy, as "probing/code/omp/best_5"."""
    return f"{PROBING}{family}/{reading}/best_{best}"


def probing_means(probing: Mapping[str, Any]) -> dict[str, float]:
    """Return {name: accuracy} of a record's `probing`, each the mean over a family's sets and draws of items.

    The names are "probing/code/omp/best_5" for five latents found by the reading `omp`, for example, and
    "probing/code/raw/best_all" for all coordinates of the activation.
    """
    found: dict[str, float] = {}
    for family, scores in probing.items():
        for reading, sets in {**scores.get("readings", {}), RAW: scores.get(RAW, {})}.items():
            for best in next(iter(sets.values()), {}):
                means = [fmean(accuracies[best]) for accuracies in sets.values()]
                found[probing_name(family, reading, best)] = fmean(means)
    return found


def stability_means(stability: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return {name: mean over runs} of a record's `stability`, by which seed differs.

    The names are "stability/all/functional_match" where all seeds differ, and "stability/support/pw_mcc" where that of
    the support does, for example.
    """
    values: dict[str, list[float]] = {}
    for found in stability.values():
        for name, value in found.items():
            if name != "differs" and value is not None:
                values.setdefault(f"{STABILITY}{found['differs']}/{name}", []).append(value)
    return {name: fmean(of) for name, of in values.items()}
