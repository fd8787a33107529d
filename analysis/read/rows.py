"""The rows that one record gives to the tables of `analysis.read.records`."""

from __future__ import annotations

import json
import math
from statistics import fmean
from typing import Any

from analysis import arms
from analysis.arms import TOPK
from analysis.read.comparable import ALL_TOKENS
from analysis.read.sources import URL
from sweep.store.records import Record

# Fields of an arm that its label or another column holds already.
_IN_OTHER_COLUMNS = (
    *("arm", "degree", "k", "n_latents", "rank", "encoder", "match", "bits", "basis", "always_on"),
    *("prefixes", "share", "rounded_in", "rounded_from", "path", "base", "extension"),
)
ALL_SETS = "mean of all sets"  # a set of labelled items that stands for all of its family
ENCODER = "encoder"  # the way to read codes by the SAE's own encoder
SEED_PARTS = ("seed_support", "seed_values", "seed_order")  # seeds of single parts, where they are set
_UNRECORDED: dict[str, object] = {  # for records without them
    "value_bits": 32,
    "basis_values": 0,
    "basis_bits": 0,
    "source_bits": 0,
    "encoder_bits": float("nan"),
    "artifact_bytes": float("nan"),
    "mask_policy": ALL_TOKENS,
}


def recovery_rows(record: Record) -> list[dict[str, object]]:
    """Return one row per algorithm of a synthetic experiment."""
    axes, config = record["axes"], record["spec"]["recovery"]
    cell = {**axes, **{key: config[key] for key in ("mask", "d_in", "noise", "values", "codes", "trials")}}
    rows: list[dict[str, object]] = []
    for algorithm in config["algorithms"]:
        prefix = f"{algorithm}/"
        measures = {k.removeprefix(prefix): v for k, v in record["metrics"].items() if k.startswith(prefix)}
        rows.append({**cell, "algorithm": algorithm, **measures})
    return rows


def probe_rows(found: dict[str, Any], own: str) -> list[dict[str, object]]:
    """Return the rows of one run and family: per way of reading, each way once, set and number of latents.

    Args:
        own: the reading that the SAE was trained with.
    """
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    for name, sets in found.get("readings", {}).items():
        reading = own if name == ENCODER else name
        for best in next(iter(sets.values()), {}):
            scored = {
                one: {
                    "accuracy": fmean(accuracies[best]),
                    "raw": fmean(found["raw"][one][best]),
                    "raw_all": fmean(found["raw"][one]["all"]),
                }
                for one, accuracies in sets.items()
            }
            scored[ALL_SETS] = {key: fmean(of[key] for of in scored.values()) for key in ("accuracy", "raw", "raw_all")}
            for one, of in scored.items():
                rows[reading, one, best] = {"reading": reading, "set": one, "best": int(best), **of}
    return list(rows.values())


def sample_rows(record: Record) -> list[dict[str, object]]:
    """Return one row per way of reading the codes of an SAE of a synthetic model, each way once."""
    model, rows = record["spec"]["synthetic"], dict[str, dict[str, object]]()
    about = {
        **_UNRECORDED,
        **_about(record),
        "features": _features(model),
        "finished": record["finished"],
        "settings": json.dumps(_settings(record["spec"]) | {"synthetic": model}, sort_keys=True),
        **_training(record),
    }
    for name, found in record["inference"].items():
        reading = str(about["reading"]) if name == ENCODER else name
        if "metrics" in found:
            rows[reading] = {**about, **numbers(found["metrics"]), **found["cost"], "reading": reading}
    return list(rows.values())


def pair_row(record: Record) -> dict[str, object]:
    """Return the columns of `Records.pairs` that the first run's record gives."""
    spec, model = record["spec"], record["spec"].get("synthetic")
    settings = {key: value for key, value in _settings(spec).items() if not key.startswith("seeds.")}
    return {
        **_UNRECORDED,
        **_about(record),
        "place": f"after block {record['axes']['layer']}" if model is None else _features(model),
        "reading": arms.described(spec["sae"]).pursuit or TOPK,
        "settings": json.dumps(settings | ({} if model is None else {"synthetic": model}), sort_keys=True),
        "finished": record["finished"],
    }


def _features(model: Record) -> str:
    """Return which features a synthetic model has, in words."""
    degree = model["feature_degree"]
    return "dense features" if degree is None else f"features of {degree} coordinates"


def _about(record: Record) -> dict[str, object]:
    """Return the columns that say what a run's SAE is and stores."""
    sizes, axes, arm = record["sizes"], record["axes"], arms.described(record["spec"]["sae"])
    d_in, n_latents, degree, n = sizes["d_in"], sizes["n_latents"], sizes["degree"], int(axes["n"])
    # Older labels do not say when rounding started.
    label = arm.label if "_from" in arm.how else record["labels"]["arm"]
    return {
        "run_id": record["run_id"],
        **{key: record["labels"][key] for key in ("model", "corpus", "sweep")},
        "arm": label,
        "base_arm": arm.base,
        "pursuit": arm.pursuit or "",
        "reading": arm.pursuit or TOPK,
        "bits": arm.bits or arms.FLOAT_BITS,
        "how_rounded": arm.how,
        "unrounded_arm": label.removesuffix(arm.rounding),
        **{key: int(axes[key]) for key in ("layer", "k", "n", "seed")},
        **{key: int(axes[key]) for key in SEED_PARTS if key in axes},
        "d": float(axes["d"]) if arms.has_degree(arm.base, degree, d_in, n_latents, n) else float("nan"),
        "d_in": d_in,
        "n_latents": n_latents,
        "degree": degree,
        **_stored(record["storage"], sizes),
    }


def _stored(storage: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """Return what a run stores, counted as files are written today.

    Older records count the indices of a support at ceil(log2 m) bits each. Files hold ceil(log2 C(m, d)) bits an atom
    in their place (`sae_core.packing`), which are fewer; runs of both ages then stand at the same bytes.
    """
    d_in, n_latents, degree = sizes["d_in"], sizes["n_latents"], sizes["degree"]
    indices = n_latents * degree * max(1, (d_in - 1).bit_length())
    if storage["index_bits"] != indices:
        return storage
    ranks = n_latents * max(1, (math.comb(d_in, degree) - 1).bit_length())
    saved = -(-indices // 8) - -(-ranks // 8)
    return storage | {"index_bits": ranks, "artifact_bytes": storage.get("artifact_bytes", math.nan) - saved}


def run_row(record: Record) -> dict[str, object]:
    """Return the row of `Records.everything` for one run."""
    sizes = record["sizes"]
    d_in, n_latents, degree, n = sizes["d_in"], sizes["n_latents"], sizes["degree"], int(record["axes"]["n"])
    row = {
        **_UNRECORDED,
        **_about(record),
        **numbers(record["metrics"]),
        "seconds": record["timings"]["total"],
        "finished": record["finished"],
        "url": record.get(URL, ""),
        "settings": json.dumps(_settings(record["spec"]), sort_keys=True),
        "options": json.dumps(_arm_options(record["spec"]["sae"]), sort_keys=True),
        "pool_tokens": record["spec"]["activations"].get("tokens"),
        "dense_values": d_in * n,
        "decoder_compression": d_in * n / (n_latents * degree + record["storage"].get("basis_values", 0)),
        **_training(record),
        "survived": (record.get("survival") or {}).get("survived"),
        **{f"rounding_{name}": value for name, value in numbers(record.get("rounding") or {}).items()},
        **{key: record.get(key) or {} for key in ("latents", "curves", "theory")},
    }
    float(row["ce_recovered"])  # raises for a record without its main measure, which then counts as unreadable
    return row


def numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return a record's metrics with NaN in place of those that are undefined or not known."""
    return {name: float("nan") if value is None else value for name, value in metrics.items()}


def _settings(spec: Record) -> dict[str, object]:
    """Return the settings that determine a result, except for the arm, its sizes, the layer and the seed.

    The seeds of single parts are among them: runs that share one are no independent repetitions of each other.
    """
    return {f"seeds.{key}": spec.get(key) for key in SEED_PARTS} | {
        f"{part}.{key}": value
        for part in ("activations", "train", "eval")
        for key, value in (spec.get(part) or {}).items()
        if (part, key) != ("activations", "layer")
    }


def _arm_options(sae: Record) -> dict[str, object]:
    """Return the options that no other column holds; for a rounded or cut arm those of the arms inside it too."""
    options: dict[str, object] = {}
    inside: Any = sae
    while inside:
        options |= {key: value for key, value in inside.items() if key not in _IN_OTHER_COLUMNS}
        inside = inside.get("of")
    return {f"sae.{key}": value for key, value in options.items() if not isinstance(value, dict)}


def _training(record: Record) -> dict[str, object]:
    """Return the tokens and seconds that training took, including those of the run that this one was made from."""
    own, source = record.get("training") or {}, record.get("source") or {}
    if "tokens" not in own:
        return {"train_tokens": float("nan"), "train_seconds": float("nan")}
    return {
        "train_tokens": float(own["tokens"]) + float(source.get("tokens") or 0),
        "train_seconds": float(own.get("seconds") or 0) + float(source.get("seconds") or 0),
    }
