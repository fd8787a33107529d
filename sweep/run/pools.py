"""The activations that a run trains on and is measured on, made where the cache has none or a damaged one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from sweep.activations.cache import CacheKey, DamagedEntryError, Pool, open_pool
from sweep.activations.capture import ensure_pools
from sweep.activations.feed import FedPool
from sweep.activations.held_out import HeldOut, HeldOutKey, ensure_held_out
from sweep.activations.local_copy import copy_to_local_disk
from sweep.corpus.windows import Windows
from sweep.jobs.job import Job
from sweep.jobs.spec import HOOK
from sweep.measures.clean import CleanPass
from sweep.measures.positions import Positions
from sweep.run.loaded import (
    clean_pass_of,
    feed_of,
    held_out_activations_of,
    held_out_of,
    outlier_rule_of,
    pool_of,
    source_of,
    train_windows_of,
)
from sweep.run.recording import log
from sweep.store.progress import RunProgress

Say = Callable[..., None]  # told the stage, what is done of it and what there is in all, as a `RunProgress` is


def ready_pool(job: Job, device: torch.device, folder: Path, say: RunProgress) -> Pool | FedPool:
    """Return the job's activations, opened. An entry or a local copy that turns out damaged is made again, once.

    With cache.mode=stream nothing lies on disk: the first buffer is filled, unless what is known of it is remembered.
    """
    if job.spec.activations.stream is not None:
        say("activations")
        feed = feed_of(job, device)
        feed.on_progress = lambda done, total: say("LM pass", done, total)
        return FedPool(feed, job.spec.activations.layer)
    try:
        return _made_and_opened(job, device, say)
    except DamagedEntryError as error:
        log(folder, f"{error}; made again")
        if job.cache_local is not None:  # the damage may be in the entry that the local copy was made from
            with suppress(DamagedEntryError):
                open_pool(job.cache_dir, job.spec.activations)
        return _made_and_opened(job, device, say)


def ready_clean_pass(job: Job, device: torch.device, positions: Positions, say: Say) -> CleanPass:
    """Return the unchanged LM on the held-out windows, from the job's hook point up.

    Their activations there are captured where the cache lacks them, at all the layers of the job's LM pass.
    """
    windows = held_out_of(job)
    return clean_pass_of(job, device, positions, ready_activations(job, device, windows, say))


def ready_activations(job: Job, device: torch.device, windows: Windows, say: Say) -> HeldOut:
    """Return the activations of some windows at the job's hook point, captured where the cache lacks them."""
    key = HeldOutKey(job.spec.activations.lm, job.model.dtype, job.axes["layer"], HOOK, windows.digest())
    while True:
        ensure_held_out(
            job.cache_dir,
            [replace(key, layer=layer) for layer in job.layers_together],
            lambda: source_of(job, device),
            windows,
            job.model.batch_size,
            on_progress=lambda done, total: say("LM pass over held-out text", done, total),
            on_wait=lambda: say("waiting for another run's LM pass"),
        )
        activations = held_out_activations_of(job.cache_dir, key, windows)
        if activations is not None:  # it may have turned out damaged
            return activations


def cache_keys(job: Job, layers: Sequence[int]) -> list[CacheKey]:
    """Return the keys of the activation entries at `layers`; in all else they are the job's own."""
    return [replace(job.spec.activations, layer=layer) for layer in layers]


def _made_and_opened(job: Job, device: torch.device, say: RunProgress) -> Pool:
    say("activations")
    key, place = job.spec.activations, job.cache_local or job.cache_dir
    if job.cache_local is None or not (job.cache_local / key.name).is_dir():
        ensure_pools(
            job.cache_dir,
            cache_keys(job, job.layers_together),
            lambda: source_of(job, device),
            lambda: train_windows_of(job),
            job.model.batch_size,
            on_progress=lambda done, total: say("LM pass", done, total),
            on_wait=lambda: say("waiting for another run's LM pass"),
            rule=lambda: outlier_rule_of(job),
        )
    if job.cache_local is not None:
        copy_to_local_disk(job.cache_dir, key, job.cache_local, on_copy=lambda: say("copying activations"))
    pool = pool_of(place, key)
    assert pool is not None, "it has been made"
    return pool
