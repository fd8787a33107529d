"""The SAE that is to be made smaller, as a run that is measured like any other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple, cast

import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from sae_core.arms import Compressed, Imported
from sae_core.shrink import Use
from sweep.jobs.build import build_job
from sweep.jobs.job import Job
from sweep.machine.gpus import device_from
from sweep.machine.process import machine_memory
from sweep.run.pools import ready_pool
from sweep.run.stages import batches, scale_of
from sweep.store.progress import RunProgress
from sweep.store.records import COMPLETE, Record, read_record, run_folder

_MEMORY_SHARE = 0.4  # the most of the machine's memory that the file of an SAE may take that is measured itself
_LEAST_USELESS = 0.02  # the share of latents that must be of no use for any to be left out


class Original(NamedTuple):
    """An SAE, and what is known of it."""

    job: Job
    record: Record | None  # of its run; None where it is too large to be measured
    file_bytes: int

    @property
    def arm(self) -> Imported:
        return cast(Imported, self.job.spec.arm)

    @property
    def k(self) -> int:
        """The latents that are active on a token: its own k, else as many as fire on held-out text on average."""
        if self.arm.header.k is not None or self.record is None:
            return self.arm.k
        return max(1, round(self.record["metrics"]["l0"]))


def original(words: Sequence[str], launch: str, carry_out: Callable[[DictConfig, str], None]) -> Original:
    """Measure the SAE that `sae.path` in `words` names, unless it is measured already.

    Args:
        words: what `python -m sweep` would be given.
        launch: the name of the launch that its run is made in.
        carry_out: carries out the run that a config describes, in the launch of a name.

    Raises:
        ValueError: the SAE cannot be read, is of another LM or layer, or its run failed.
    """
    with initialize_config_module("conf", version_base="1.3"):
        cfg = compose("config", overrides=["sae=imported", *words])
    job = build_job(cfg, launch)
    size = cast(Imported, job.spec.arm).header.file_bytes
    if size > _MEMORY_SHARE * machine_memory():
        print("the SAE is too large for this machine's memory: it is not measured itself", file=sys.stderr)
        return Original(job, None, size)
    carry_out(cfg, launch)
    record = read_record(job.runs_dir, job.spec.run_id)
    if record is None or record["status"] != COMPLETE:
        raise ValueError(f"sae.path={cast(Imported, job.spec.arm).path} could not be measured")
    return Original(job, record, size)


def latents_of_use(source: Original) -> int:
    """Return how many latents to keep: all, unless enough of them are of no use (`sae_core.shrink`)."""
    arm, n = source.arm, source.arm.header.n_latents
    use = _use(source.job, Compressed(arm, n, arm.header.d_in, source.k))
    useful = max(use.useful, 2 * source.k + 1)
    return useful if useful < (1 - _LEAST_USELESS) * n else n


def _use(job: Job, arm: Compressed) -> Use:
    folder = run_folder(job.runs_dir, job.spec.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    with closing(RunProgress(folder)) as say:
        pool = ready_pool(job, device_from(job.device), folder, say)
        say("latents")
        sample = batches(job, pool, torch.device("cpu")).sample(1, Compressed.SAMPLE)
        return arm.latent_use(scale_of(job, pool), sample)
