"""Predict from a run's sizes alone what it will store, to the byte, and how much memory its worker will take."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from sae_core.storage import planned_bytes, planned_counts
from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryJob
from sweep.lm.find import DTYPES
from sweep.measures.clean import CleanPass, batch_size_within
from sweep.plan.steps import StepShape, setup_of, shape_of, training_bytes

_WORKER = 440 << 20  # bytes of a worker before it has an LM: torch, transformers and what they import
_CUDA_CONTEXT = 500 << 20  # bytes on the GPU; CUDA takes twice as many in the machine's memory too
_LOGIT_COPIES = 3  # logits of a batch that are alive at once: clean ones, a reading's, and what makes them
_ATOM_PAIRS = 12 << 24  # bytes of the pairs of atoms that are compared at once, see `sae_core.theory`


class PlannedStorage(NamedTuple):
    """The counts that the record's `storage` will have."""

    learned_decoder_values: int
    compression: float
    learned_parameters: int
    index_bits: int
    value_bits: float
    basis_values: int
    basis_bits: int
    source_bits: int
    encoder_bits: float
    artifact_bytes: int  # the exact size of sae.safetensors


class Memory(NamedTuple):
    """The memory that a run needs at most."""

    resident: int  # bytes
    gpu: int  # bytes on a GPU, 0 on a CPU


class LMSize(NamedTuple):
    """The sizes of an LM that decide how long its passes take."""

    blocks: int  # parameters of all blocks
    parameters: int
    vocabulary: int


def planned_storage(job: Job) -> PlannedStorage:
    """Return what the run's SAE will store."""
    layout = job.spec.arm.layout(job.info.d_model)
    return PlannedStorage(*planned_counts(layout), planned_bytes(layout))


def planned_memory(job: Job | RecoveryJob) -> int:
    """Return the bytes that the run's worker will have resident at most."""
    if isinstance(job, RecoveryJob):
        return recovery_memory(job)
    return run_memory(job, setup_of(job.device, job.backend, 1).cuda).resident


def run_memory(job: Job, cuda: bool) -> Memory:
    """Return the memory of an SAE's run.

    Of training and of the comparison of atoms only the larger need counts, because one comes after the other.
    """
    size, shape = size_of(job), job_shape(job)
    width = DTYPES[job.model.dtype].itemsize
    # An LM that runs in bfloat16 because that is faster is also loaded in float32, once; its file is mapped meanwhile.
    lm = size.parameters * (width + 8 if job.model.auto_dtype and width < 4 else width)
    together = batch_size_within(job.model.batch_size, job.model.window, size.vocabulary, width)
    batch_logits = together * job.model.window * size.vocabulary * width
    kept_logits = held_out_tokens(job) * size.vocabulary * width if clean_pass_is_kept(job, size) else 0
    pairs = min(_ATOM_PAIRS, 12 * shape.layout.n_latents**2)
    work = lm + kept_logits + _LOGIT_COPIES * batch_logits + max(training_bytes(shape), pairs)
    key = job.spec.activations
    pool = 2 * key.tokens * job.info.d_model if key.stream is None else 0  # mapped from the cache
    if cuda:
        return Memory(_WORKER + 2 * _CUDA_CONTEXT + pool, _CUDA_CONTEXT + work)
    return Memory(_WORKER + pool + work, 0)


def recovery_memory(job: RecoveryJob) -> int:
    """Return the bytes that the worker of a synthetic recovery experiment will have resident at most."""
    return _WORKER + 8 * job.spec.config.trials * job.spec.n_latents


def job_shape(job: Job) -> StepShape:
    """Return the shape of the run's training steps."""
    return shape_of(job.spec.arm.layout(job.info.d_model), job.sizes.k, job.spec.train.batch_size)


def held_out_tokens(job: Job) -> int:
    """Return the number of tokens that the run is measured on."""
    return job.spec.eval.windows * job.model.window


def clean_pass_is_kept(job: Job, size: LMSize) -> bool:
    """Tell whether the clean pass will be remembered, as `sweep.measures.clean.CleanPass` decides it."""
    a_token = (job.info.d_model + size.vocabulary) * DTYPES[job.model.dtype].itemsize
    return held_out_tokens(job) * a_token <= CleanPass.KEPT_BYTES


def size_of(job: Job) -> LMSize:
    """Return the sizes of the job's LM."""
    if job.spec.synthetic is not None:  # a sample is the features' activations times their vectors
        values = job.spec.synthetic.n_features * job.info.d_model
        return LMSize(values, values, 0)
    return lm_size(job.info.folder, job.info.d_model)


def kept_logits_bytes(job: Job, size: LMSize) -> int:
    """Return the bytes of the unchanged LM's held-out logits that are kept on disk, 0 where none are."""
    logits = held_out_tokens(job) * size.vocabulary * DTYPES[job.model.dtype].itemsize
    return 0 if clean_pass_is_kept(job, size) or logits > job.logits_bytes else logits


def streamed_memory(jobs: Sequence[Job]) -> int:
    """Return the bytes that one worker has resident at most which trains all of these together (cache.mode=stream)."""
    largest = max(map(planned_memory, jobs))
    each = [training_bytes(job_shape(job)) for job in jobs]
    buffer = max((job.spec.activations.stream or 0) * job.info.d_model * len(job.layers_together) for job in jobs)
    return largest + sum(each) - max(each) + 8 * buffer  # a buffer as it is captured and as it is stored


@lru_cache
def lm_size(folder: Path, d_model: int) -> LMSize:
    """Return the sizes of the LM in `folder`, without loading it.

    The number of parameters is read from the headers of its safetensors files, or guessed from the size of other weight
    files at two bytes a parameter; the vocabulary is read from its config.
    """
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    vocabulary = config.get("vocab_size", 0)
    parameters = sum(map(_parameters_in, folder.glob("*.safetensors")))
    parameters = parameters or sum(file.stat().st_size for file in folder.glob("*.bin")) // 2
    embeddings = vocabulary * d_model * (1 if config.get("tie_word_embeddings") else 2)
    return LMSize(max(parameters - embeddings, 0), parameters, vocabulary)


def _parameters_in(file: Path) -> int:
    with open(file, "rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
