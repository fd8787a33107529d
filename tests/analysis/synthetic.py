"""Records like those of a sweep, of an LM that does not exist: every arm, several d, k, layers and seeds."""

from __future__ import annotations

import math
import random

from analysis.arms import parse
from sweep.store.records import SCHEMA, write_record

M, N = 64, 512
FINISHED = "2026-01-01T00:00:00+00:00"
TOKENS = 1_280_000  # tokens that a run trains on
SPARSE = {  # arm: its CE recovered minus the expander's
    "expander": 0.0,
    "expander_balanced": 0.004,
    "clustered": -0.01,
    "banded": -0.02,
    "pruned_retuned": 0.03,
    "dynamic": 0.015,
    "frozen_random": -0.15,
}
MATCHED = {  # arm: its CE recovered minus the expander's
    "dense_matched": 0.02,
    "dense_matched_parameters": 0.022,
    "dense_matched_bytes": 0.018,
    "dense_matched_own": 0.025,
    "dense_matched_own_parameters": 0.012,
    "dense_matched_own_bytes": 0.01,
}
DENSE = {"dense_tied": 0.95, "dense_warmtied": 0.96, "dense_randinit": 0.90}  # arm: its CE recovered


def record(arm, d, k, seed, ce, *, n_latents=N, degree=None, layer=1, pool=200_000, values=None, stored=None, **extra):
    """Return a complete record of the arm with that label. `extra` replaces or adds whole keys of it."""
    degree = d if degree is None else degree
    values = degree * n_latents if values is None else values
    metrics = metrics_of(ce)
    return {
        "schema": SCHEMA,
        "run_id": f"{arm}-{layer}-{d}-{k}-{seed}-{n_latents}-{pool}".replace("+", "."),
        "status": "complete",
        "finished": FINISHED,
        "labels": {"model": "tiny", "corpus": "text", "arm": arm, "sweep": "s"},
        "axes": {"layer": layer, "d": d, "k": k, "n": N, "seed": seed},
        "sizes": {"d_in": M, "n_latents": n_latents, "degree": degree, "k": k},
        "storage": {
            "learned_decoder_values": values,
            "compression": M / degree,
            "index_bits": 64,
            "learned_parameters": values + n_latents + M,
            "value_bits": 32,
            "artifact_bytes": stored or 4 * (values + n_latents + M) + 1000,
        },
        "metrics": metrics,
        "inference": {"encoder": reading(metrics, degree * n_latents)},
        "theory": {},
        "config": {"runs_dir": "/somewhere"},
        "timings": {"total": 1.0},
        "versions": {"python": "3.11"},
        "spec": {
            "activations": {"layer": layer, "corpus": "c", "tokens": pool},
            "sae": sae_spec(arm),
            "train": {"steps": 5000, "batch_size": 256},
            "eval": {"windows": 100},
            "seed": seed,
        },
        **extra,
    }


def sae_spec(label):
    """Return the `spec["sae"]` that a run of the arm with that label has; its sizes are left out."""
    arm = parse(label)
    trained = {"arm": arm.base, "encoder": arm.pursuit} if arm.pursuit else {"arm": arm.base}
    trained |= {"basis": arm.basis} if arm.basis else {}
    return {"arm": arm.base + arm.rounding, "bits": arm.bits, "of": trained} if arm.bits else trained


def metrics_of(ce):
    """Return a run's metrics, all of which follow from its CE recovered."""
    return {
        "ce_recovered": ce,
        "ce_recovered_mean": ce - 0.1,
        "delta_ce": 8 * (1 - ce),
        "relative_error": 1.4 * (1 - ce),
        "fvu": 1 - ce,
        "dead_fraction": 0.01 * (1 - ce),
        "dead_window_tokens": 12800,
        "kl": 1.0,
        "tokens": 12800,
    }


def reading(metrics, cost, gain=0.0, threads=1):
    """Return one way of reading codes: its measures, better than `metrics` by `gain`, and its cost."""
    ce = metrics["ce_recovered"] + gain
    found = {**metrics, "ce_recovered": ce, "relative_error": 1.4 * (1 - ce), "fvu": 1 - ce}
    return {"metrics": found, "cost": {"multiply_adds": cost, "tokens_per_second": 10**9 // cost, "threads": threads}}


def planted(mask, k, seed, exact):
    """Return a complete record of synthetic recovery in which every measure is `exact`."""
    measures = ("exact_recovery", "support_recovery", "code_error", "relative_residual", "tokens_per_second")
    algorithms = ["omp_magnitude", "niht"]
    config = {"mask": mask, "d_in": 32, "noise": 0.0, "values": "gaussian", "codes": "gaussian", "trials": 10}
    return {
        "schema": SCHEMA,
        "kind": "recovery",
        "run_id": f"{mask}-{k}-{seed}",
        "status": "complete",
        "labels": {"model": "synthetic", "corpus": "c", "arm": mask, "sweep": "s"},
        "axes": {"d": 5, "k": k, "n": 100, "seed": seed},
        "sizes": {},
        "timings": {"total": 1.0},
        "spec": {"recovery": {**config, "algorithms": algorithms}},
        "metrics": {f"{name}/{measure}": exact for name in algorithms for measure in measures},
    }


def sampled(arm, d, seed, coverage, degree=None, reading_gain=0.1, k=16, **metrics):
    """Return a complete record of an SAE of a synthetic model; `reading_gain` is what mp_refit finds more."""
    made = record(arm, d, k, seed, 0.5, values=0 if arm.startswith("frozen") else None)
    made |= {"kind": "synthetic", "run_id": f"sampled-{arm}-{d}-{seed}-{degree}-{k}"}
    made["labels"] = {**made["labels"], "model": "synthetic", "corpus": "synthetic"}
    made["spec"] = {**made["spec"], "synthetic": {"d_in": M, "n_features": N, "feature_degree": degree}}

    def measured(found):
        fixed = {"fvu": 0.4, "explained_variance": 0.6, "l0": k, "dead_fraction": 0.1, "absorption": 0.2, "mcc": 0.3}
        more = {"mcc_ceiling": 0.4, "feature_f1": found / 2, "latent_f1": found / 3, "uniqueness": 0.5}
        return {**fixed, **more, "coverage": found, **metrics}

    cost = {"multiply_adds": 1000, "tokens_per_second": 10**6, "threads": 1}
    own = {"metrics": measured(coverage), "cost": cost}
    more = own if "+mp_refit" in arm else {"metrics": measured(coverage + reading_gain), "cost": cost}
    made["metrics"], made["inference"] = measured(coverage), {"encoder": own, "mp_refit": more}
    return made


def probed(made, accuracy, raw=0.7, raw_all=0.9):
    """Add to a record the scores of two sets by its encoder; `accuracy` is that of the best latent alone."""
    of = {"a": accuracy, "b": accuracy + 0.1}
    best = {"1": 0.0, "2": 0.05, "5": 0.1}
    sets = {
        name: {count: [value + more, value + more + 0.02] for count, more in best.items()} for name, value in of.items()
    }
    raws = {name: {**dict.fromkeys(best, [raw, raw]), "all": [raw_all]} for name in of}
    return {**made, "probing": {"code": {"raw": raws, "readings": {"encoder": sets}}}}


def compared(made, others, differs="all", chance=0.02, **live):
    """Add to a record what was measured of its SAE beside others: {run id of the other: mean correlation}."""
    pairs = {}
    for other, match in others.items():
        found = {"functional_match": match, "above_90": match / 4, "above_70": match / 2, "above_50": match * 0.75}
        by_chance = {f"{name}_chance": chance for name in found}
        atoms = {"pw_mcc": 0.4 + match / 10, "pw_mcc_chance": 0.4, "pw_mcc_ceiling": 0.7, "live_fraction": 0.9, **live}
        pairs[other] = {"differs": differs, **found, **by_chance, **atoms}
    return {**made, "stability": {**made.get("stability", {}), **pairs}}


def ce_of(d, k, layer, seed, rng):
    """Return CE recovered: more values, more active latents and earlier layers preserve more; seeds differ by .004."""
    return 1 - 0.42 * (d * k) ** -0.22 - 0.02 * (layer - 1) + 0.004 * (seed - 1) + rng.gauss(0, 0.001)


def learned(ce, rng):
    """Return learning curves that end at about the run's own values."""
    steps = range(1, 11)
    return {
        "tokens": [TOKENS // 10 * step for step in steps],
        "loss": [50 / step for step in steps],
        "fvu": [(1 - ce) * (1 + math.exp(-step / 2)) + rng.gauss(0, 0.002) for step in steps],
        "dead_fraction": [0.3 * math.exp(-step / 3) + abs(rng.gauss(0, 0.004)) for step in steps],
    }


def latents(arm, d, rng):
    """Return a record's `latents`."""
    sparse = parse(arm).base in SPARSE
    found = {
        "tokens": 100_000,
        "dead_fraction": 0.02 / d,
        "near_dead_fraction": 0.06 / d + abs(rng.gauss(0, 0.002)),
        "near_dead_rate": 1e-5,
        "firing_rate_quantiles": {"0.05": 1e-4, "0.5": 1e-2},
        "token_entropy": 0.5 + 0.02 * d,
        "firing_rate_histogram": {"log10_edges": [-5, -4, -3], "counts": [3, 4]},
        "split_half_reliability": 0.9 - 0.3 / d,
        "collisions": 0.002 * d if sparse else None,
        "novelty": {
            "reference": "abc",
            "novel_fraction": 0.5 / d**0.5,
            "novel_fraction_null": 0.97,
            "median_best_jaccard": 0.2,
            "split_half_agreement": 0.8,
        },
        "cosine": {"reference": "abc", "mean_best": 0.3 + 0.01 * d, "matches": {"0.5": 0.2, "0.7": 0.1, "0.9": 0.0}},
    }
    if sparse:
        distinct = 1.0 if arm != "clustered" else 0.05
        overlap = {"distinct_fraction": distinct, "mean_overlap": d * d / M}
        found["supports"] = {**overlap, "rows_covered": 1.0, "row_degree_cv": 0.1}
    return found


def write_sweep(folder, layers=(1, 2), ds=(2, 4, 8, 16), ks=(8, 16), seeds=(0, 1, 2)):
    """Write a whole study into `folder` and return how many SAEs of an LM it has."""
    rng = random.Random(0)
    made = []
    for layer in layers:
        for k in ks:
            for seed in seeds:
                made += _cells(layer, k, seed, ds, rng)
    made += [_sparse("expander", 8, ks[-1], seed, 1, 0.0, rng) for seed in (3, 4)]
    made += [_dense("dense_tied", 0.95, ks[-1], seed, 1, ds[-1], rng) for seed in (3, 4)]
    for pool in (5_000, 20_000, 50_000):
        for d in ds[:2]:
            less = 0.4 * (1e4 / pool) ** 0.5 / d**0.3
            made += [_sparse("expander", d, ks[-1], seed, 1, -less, rng, pool=pool) for seed in seeds]
    made.append(planted("dense", 4, 0, 1.0))
    for seed in seeds:
        for degree, shift in ((None, 0.0), (7, 0.2)):
            for arm, found in (("expander", 0.1), ("expander+mp_refit", 0.3), ("frozen_random+mp_refit", 0.15)):
                made.append(sampled(arm, 8, seed, found + shift + seed / 100, degree))
            made.append(sampled("frozen_random", 8, seed, 0.02, degree, reading_gain=0.05))
    shift = {"frozen_random": 0.0, "expander": 0.1}
    made = [
        probed(one, 0.6 + shift[arm] + one["axes"]["seed"] / 100)
        if (arm := one["labels"]["arm"]) in shift and "kind" not in one and one["axes"]["d"] == ds[-1]
        else one
        for one in made
    ]
    made = [
        compared(one, {f"{one['run_id']}-again": 0.2 + one["axes"]["seed"] / 50 + shift[one["labels"]["arm"]]})
        if one["labels"]["arm"] in shift and one["axes"]["d"] == 8 and one["axes"]["layer"] == 1
        else one
        for one in made
    ]
    for one in made:
        write_record(folder, one)
    return sum("kind" not in one for one in made)


def _cells(layer, k, seed, ds, rng):
    made = [_dense(arm, level, k, seed, layer, ds[-1], rng) for arm, level in DENSE.items()]
    made.append(_dense("dense_tied+mp_refit", 0.975, k, seed, layer, ds[-1], rng))
    for d in ds:
        made += [_sparse(arm, d, k, seed, layer, more, rng) for arm, more in SPARSE.items()]
        made.append(_sparse("expander+mp_refit", d, k, seed, layer, 0.06 - 0.03 * d / ds[-1], rng))
        for bits, less in ((8, 0.0005), (4, 0.012)):
            made.append(_sparse(f"expander-{bits}bit", d, k, seed, layer, -less, rng, bits=bits))
        size = round(d * N / M)
        if size > 2 * k:
            made += [_matched(arm, d, k, seed, layer, more, size, rng) for arm, more in MATCHED.items()]
            made.append(_matched("dense_matched+mp_refit", d, k, seed, layer, 0.015, size, rng))
    if k == 8:  # once: PCA has no k
        for r in (8, 16, 32, 48):
            ce = 0.3 + 0.12 * math.log2(r / 4)
            made.append(record("pca", ds[-1], k, seed, ce, layer=layer, degree=M, n_latents=r))
            made[-1]["sizes"]["k"] = r
    return made


def _sparse(arm, d, k, seed, layer, more, rng, pool=200_000, bits=32):
    ce = ce_of(d, k, layer, seed, rng) + more
    values = 0 if arm == "frozen_random" else d * N
    seeded = arm.startswith(("expander", "clustered", "banded", "frozen"))
    stored = values * bits // 8 + 4 * (N + M) + (8 if seeded else d * N * 6 // 8) + 1200
    made = record(arm, d, k, seed, ce, layer=layer, pool=pool, values=values, stored=stored)
    made["storage"] |= {"value_bits": 0 if arm == "frozen_random" else bits, "index_bits": 64 if seeded else d * N * 6}
    made["curves"], made["latents"] = learned(ce, rng), latents(arm, d, rng)
    made["training"] = {"steps": 5000, "tokens": TOKENS, "seconds": 3.0 + d}
    if arm == "pruned_retuned" or bits < 32:
        made["source"] = {"run_id": "x", "arm": "dense_tied", "tokens": TOKENS, "seconds": 9.0}
    if bits < 32:
        made["rounding"] = {"correlation": 0.99, "below_90": 0.4 / bits + seed / 1000, "silenced": 0.0, "dead": 0.1}
    names = [f"r_{ratio}_{sets}" for ratio in ("id", "omp") for sets in ("random", "observed")]
    ratios = {name: [d, 2.0 * d, 4.0 * d] for name in names}
    made["theory"] = {"certificates": {"k": [4, 8, 16], "kind": "bound", **ratios}}
    return _read_by_pursuit(made, d * N, 0.03 if "+" not in arm else 0.002)


def _dense(arm, level, k, seed, layer, d, rng):
    ce = level + 0.001 * k - 0.02 * (layer - 1) + 0.003 * seed + rng.gauss(0, 0.0005) - 0.012
    own = arm in ("dense_warmtied", "dense_randinit")
    made = record(arm, d, k, seed, ce, layer=layer, degree=M, stored=4 * M * N * (1 + own) + 3500)
    made["storage"]["learned_parameters"] = (1 + own) * M * N + N + M
    made["curves"], made["latents"] = learned(ce, rng), latents(arm, M, rng)
    made["training"] = {"steps": 5000, "tokens": TOKENS, "seconds": 12.0}
    return _read_by_pursuit(made, M * N, 0.015, dense=True)


def _matched(arm, d, k, seed, layer, more, size, rng):
    ce = ce_of(d, k, layer, seed, rng) + more
    shift = {"parameters": 1, "bytes": 2}.get(arm.rsplit("_", 1)[-1], 0)
    made = record(arm, d, k, seed, ce, layer=layer, degree=M, n_latents=size + shift)
    made["curves"], made["latents"] = learned(ce, rng), latents(arm, d, rng)
    made["training"] = {"steps": 5000, "tokens": TOKENS, "seconds": 4.0}
    return _read_by_pursuit(made, M * size, 0.008, dense=True)


def _read_by_pursuit(made, one_shot, gain, dense=False):
    """Add the readings by top k, MP with a refit and OMP to a record, and return it."""
    k = made["axes"]["k"]
    metrics = made["metrics"]
    made["inference"]["topk"] = reading(metrics, one_shot, -0.1 if "+" in made["labels"]["arm"] else 0.0)
    made["inference"]["mp_refit"] = reading(metrics, k * one_shot if dense else 2 * one_shot + 50 * k, gain * 0.9)
    made["inference"]["omp"] = reading(metrics, k * one_shot + 100 * k, gain)
    return made
