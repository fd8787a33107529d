"""Synthetic recovery: plant k-sparse codes in a random dictionary and see which of them each pursuit finds. No LM."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from sae_core.dictionary import DenseDictionary, Dictionary, SparseDictionary
from sae_core.kernels.dispatch import backend_name, get_backend
from sae_core.pursuit.batched import Pursuit, solve
from sae_core.pursuit.solvers import Solver, gomp_solver, solver
from sae_core.supports import SUPPORTS
from sweep.jobs.recovery import ONE_SHOT, RecoveryJob, RecoverySpec
from sweep.machine.gpus import device_from
from sweep.run.recording import recording
from sweep.store.records import COMPLETE, RECOVERY, Record, read_record, run_folder


def recover(job: RecoveryJob) -> Record:
    """Carry out an experiment unless its record is complete already, and return the record. A failure is a record too.

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
        record["metrics"] = recovery_measures(
            job.spec, device, job.backend, lambda done, total: say("recovery", done, total)
        )
    return record


def recovery_measures(
    spec: RecoverySpec,
    device: torch.device,
    backend: str = "auto",
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Return {`algorithm/measure`: value}, measured over the trials:

    - exact_recovery: share of trials whose picks are exactly the planted atoms;
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
    """Return the dictionary, targets (trials, d_in), codes and indices (trials, k), all drawn from the spec's seed."""
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
    """Return ||x_hat - x|| / ||x|| of each trial, float64 (trials,). Planted atoms that were not picked count whole."""
    same = found.indices[:, :, None] == indices[:, None]  # (trials, picked, planted)
    planted_there = (same * codes[:, None].double()).sum(-1)
    missed = (codes.double() * ~same.any(1)).square().sum(1)
    wrong = (found.codes.double() - planted_there).square().sum(1)
    return (wrong + missed).sqrt() / codes.double().norm(dim=1)
