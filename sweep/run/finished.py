"""The SAEs of finished runs, read back for runs that start from them or are compared with them."""

from __future__ import annotations

import os
from contextlib import suppress

import torch

from sae_core import io
from sae_core.sae import SAE
from sweep.jobs.job import Job
from sweep.store.hashes import file_hash
from sweep.store.records import COMPLETE, RECORD, WEIGHTS, Record, read_record, run_folder


class NeededRunError(ValueError):
    """The run that this one starts from, or is compared with, failed or cannot be read."""


def load_sae(device: torch.device, job: Job) -> tuple[SAE, str]:
    """Return the SAE of a finished run, and its run id.

    Raises:
        NeededRunError: the run failed, or its SAE cannot be read; its record is then set aside, and the run counts as
            not made. One that may not be read stays as it is.
    """
    run_id = job.spec.run_id
    record, folder = read_record(job.runs_dir, run_id) or {}, run_folder(job.runs_dir, run_id)
    if record.get("status") != COMPLETE:
        why = record.get("error", "it left no record")
        raise NeededRunError(f"{run_id}, {job.title}, which this run needs, failed: {why}")
    try:
        return read_sae(device, job, record), run_id
    except io.SAEFileError as error:
        with suppress(OSError):
            os.replace(folder / RECORD, folder / f"{RECORD}.damaged")
        raise NeededRunError(f"{job.title}, which this run needs: {error}; the same command trains it again") from None
    except OSError as error:
        raise NeededRunError(
            f"{job.title}, which this run needs: {error.filename} cannot be read ({error.strerror})"
        ) from None


def read_sae(device: torch.device, job: Job, record: Record) -> SAE:
    """Return the SAE of a finished run.

    Raises:
        SAEFileError: its files are damaged, or not those that the run left.
        OSError: they are there and cannot be read.
    """
    folder = run_folder(job.runs_dir, job.spec.run_id)
    sae = io.load(folder, device, job.backend)
    # Older records have no checksum.
    if record.get(WEIGHTS) not in (None, file_hash(folder / io.WEIGHTS_FILE)):
        raise io.SAEFileError(f"{folder / io.WEIGHTS_FILE} does not match its checksum")
    return sae
