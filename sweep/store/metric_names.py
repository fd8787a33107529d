"""The names of everything in Weights & Biases, each said once: the tracker logs them, the dashboard draws them, a test
holds the README's table to them."""

from __future__ import annotations

# Config: what a run is, at the top where W&B groups and filters by it. The whole of a run's settings lies below.
LABELS = ("model", "corpus", "arm", "sweep")
AXES = ("layer", "d", "k", "n", "seed")
SIZES = ("d_in", "n_latents", "degree")

# History: the curves of training, over STEP.
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

# Summary: a record's parts, each under a prefix of its own; see `sweep.store.records` for what is in them.
PREFIXES = {
    "storage": "storage/",
    "metrics": "eval/",
    "timings": "seconds/",
    "latents": "latents/",
    "training": "training/",
    "source": "source/",
}
STORAGE, EVAL = PREFIXES["storage"], PREFIXES["metrics"]
COMPRESSION = STORAGE + "compression"
STORED_BYTES = STORAGE + "artifact_bytes"
CE_RECOVERED = EVAL + "ce_recovered"
DELTA_CE = EVAL + "delta_ce"
FVU = EVAL + "fvu"
DEAD_FRACTION = EVAL + "dead_fraction"
STATUS, RUN_ID = "status", "run_id"


def of_inference(name: str, measure: str) -> str:
    """The name of a measure taken with the way `name` of reading codes, say "omp"."""
    return f"{EVAL}{name}/{measure}"
