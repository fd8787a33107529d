"""Synthetic recovery: k-sparse codes planted in a random dictionary, and which of them each pursuit finds. No LM."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sae_core.arms import CellError, Sizes
from sae_core.dictionary import DenseDictionary, Dictionary, SparseDictionary
from sae_core.kernels.dispatch import backend_name, get_backend
from sae_core.pursuit.batched import Pursuit, solve
from sae_core.pursuit.solvers import Solver, canonical, gomp_solver, solver
from sae_core.supports import SUPPORTS, check_degree
from sweep.machine.gpus import device_from
from sweep.run.recording import recording
from sweep.store.hashes import short_hash
from sweep.store.records import COMPLETE, RECOVERY, Record, read_record, run_folder
from sweep.tracking.wandb_tracker import TrackerConfig

MASKS, VALUES, CODES = ("expander", "clustered", "dense"), ("gaussian", "flat"), ("gaussian", "positive", "signs")
ONE_SHOT = ("topk", "topk_magnitude")  # the k best correlations at once, then least squares


@dataclass(frozen=True)
class RecoveryConfig:
    """The conditions of one experiment.

    Args:
        d_in: rows of the dictionary.
        mask: expander, clustered or dense.
        values: of the atoms, before each is scaled to unit norm: "gaussian" or "flat" (+-1).
        codes: planted on k atoms drawn at random: "gaussian", "positive" (its magnitude) or "signs" (+-1).
        noise: Gaussian noise added to each target, its norm as a fraction of the target's.
        trials: targets.
        algorithms: pursuits by name (`sae_core.pursuit.solvers`), or topk, topk_magnitude.
    """

    d_in: int = 512
    mask: str = "expander"
    values: str = "gaussian"
    codes: str = "gaussian"
    noise: float = 0.0
    trials: int = 200
    algorithms: tuple[str, ...] = ("omp_magnitude",)

    def __post_init__(self):
        for key, known in (("mask", MASKS), ("values", VALUES), ("codes", CODES)):
            if getattr(self, key) not in known:
                raise ValueError(f"recovery.{key}={getattr(self, key)} must be one of {', '.join(known)}")
        for key in ("d_in", "trials"):
            if getattr(self, key) < 1:
                raise ValueError(f"recovery.{key}={getattr(self, key)} must be at least 1")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"recovery.noise={self.noise} must be at least 0 and finite")
        try:
            names = [name if name in ONE_SHOT else canonical(name) for name in self.algorithms]
        except ValueError as error:
            raise ValueError(f"recovery.algorithms={list(self.algorithms)}: {error}, topk, topk_magnitude") from None
        if not names:
            raise ValueError("recovery.algorithms must name at least one pursuit")
        object.__setattr__(self, "algorithms", tuple(dict.fromkeys(names)))


@dataclass(frozen=True)
class RecoverySpec:
    """What determines the result; the degree is d_in where atoms are dense."""

    config: RecoveryConfig
    n_latents: int
    degree: int
    k: int
    seed: int
    run_id: str = field(init=False, repr=False, compare=False)  # hash of the spec

    def __post_init__(self):
        object.__setattr__(self, "run_id", short_hash(self.as_json()))
        check_degree(self.config.d_in, self.degree)
        if self.n_latents <= 2 * self.k:
            raise CellError(f"n={self.n_latents} <= 2k={2 * self.k}: {self.k}-sparse codes cannot be unique")

    def as_json(self) -> dict[str, Any]:
        sizes = {"n_latents": self.n_latents, "degree": self.degree, "k": self.k, "seed": self.seed}
        return {"recovery": asdict(self.config), **sizes}


@dataclass(frozen=True)
class RecoveryJob:
    """One cell, ready to start."""

    spec: RecoverySpec
    axes: dict[str, int]
    labels: dict[str, str]
    tracker: TrackerConfig
    runs_dir: Path
    device: str
    backend: str
    threads: int | None
    settings: dict[str, Any]  # the whole resolved config

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.spec.n_latents, self.spec.degree, self.spec.k)

    def lacking(self, record: Record) -> list[str]:
        """What a complete record still lacks: nothing."""
        return []

    @property
    def title(self) -> str:
        spec = self.spec
        sizes = f"d={spec.degree} k={spec.k} n={spec.n_latents}"
        return f"{spec.config.mask} {sizes} noise={spec.config.noise:g} s{spec.seed}"


def recover(job: RecoveryJob) -> Record:
    """Carry out `job` unless its record is complete already; return the record. A failure is a record too.

    The caller holds the run's lock.
    """
    record = read_record(job.runs_dir, job.spec.run_id)
    if record is not None and record["status"] == COMPLETE:
        return record
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    folder = run_folder(job.runs_dir, job.spec.run_id)
    with recording(job, folder, job.spec.config.d_in) as (record, _, say):
        record["kind"] = RECOVERY
        device = device_from(job.device)
        record["versions"]["backend"] = backend_name(job.backend, device)
        record["metrics"] = measure(job.spec, device, job.backend, lambda done, total: say("recovery", done, total))
    return record


def measure(
    spec: RecoverySpec,
    device: torch.device,
    backend: str = "auto",
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """`algorithm/measure` -> value, over the trials:

    - exact_recovery: share whose picks are exactly the planted atoms;
    - support_recovery: mean share of the planted atoms that were picked;
    - code_error: mean of ||x_hat - x|| / ||x||, codes as vectors of n;
    - relative_residual: mean of ||y - W x_hat|| / ||y||;
    - tokens_per_second.
    """
    dictionary, targets, codes, indices = _planted(spec, device, backend)
    metrics: dict[str, float] = {}
    norms = targets.norm(dim=1).clamp_min(torch.finfo(targets.dtype).tiny)  # planted atoms may cancel to 0
    for done, name in enumerate(spec.config.algorithms):
        tick(done, len(spec.config.algorithms))
        started = time.perf_counter()
        found = solve(_solver(name, spec.k), dictionary, targets, spec.k, backend)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        hit = (found.indices[:, :, None] == indices[:, None]).any(-1).double().mean(1)
        metrics |= {
            f"{name}/exact_recovery": float((hit == 1).double().mean()),
            f"{name}/support_recovery": float(hit.mean()),
            f"{name}/code_error": float(_code_errors(found, codes, indices).mean()),
            f"{name}/relative_residual": float((found.residual_norm / norms).double().mean()),
            f"{name}/tokens_per_second": len(targets) / seconds,
        }
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
    return metrics


def _solver(name: str, k: int) -> Solver:
    if name in ONE_SHOT:
        return gomp_solver(k, signed=name == "topk")
    return solver(name)


@torch.no_grad()
def _planted(
    spec: RecoverySpec, device: torch.device, backend: str
) -> tuple[Dictionary, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dictionary, targets (trials, d_in), codes and indices (trials, k)), all drawn from the spec's seed."""
    config, g = spec.config, torch.Generator().manual_seed(spec.seed)
    n, m, k, trials = spec.n_latents, config.d_in, spec.k, config.trials
    if config.mask == "dense":
        dictionary: Dictionary = DenseDictionary(m, n, g)
    else:
        dictionary = SparseDictionary(m, SUPPORTS[config.mask](m, n, spec.degree, spec.seed), g)
    if config.values == "flat":
        dictionary.values.copy_(_signs(dictionary.values.shape, g))
    indices = torch.stack([torch.randperm(n, generator=g)[:k] for _ in range(trials)])
    codes = _signs((trials, k), g) if config.codes == "signs" else torch.randn(trials, k, generator=g)
    codes = codes.abs() if config.codes == "positive" else codes
    noise = torch.randn(trials, m, generator=g)
    codes, indices, noise = codes.to(device), indices.to(device), noise.to(device)
    dictionary = dictionary.to(device)
    kernels = get_backend(backend, device)
    targets = kernels.decode(codes, indices, dictionary.unit_values(backend), dictionary.support, m)
    noise *= config.noise * targets.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    return dictionary, targets + noise, codes, indices


def _signs(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0


def _code_errors(found: Pursuit, codes: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """||x_hat - x|| / ||x|| by trial, the planted atoms that were not picked counting whole: float64 (trials,)."""
    same = found.indices[:, :, None] == indices[:, None]  # (trials, picked, planted)
    planted_there = (same * codes[:, None].double()).sum(-1)
    missed = (codes.double() * ~same.any(1)).square().sum(1)
    wrong = (found.codes.double() - planted_there).square().sum(1)
    return (wrong + missed).sqrt() / codes.double().norm(dim=1)
