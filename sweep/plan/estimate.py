"""What a plan would take: storage to the byte, and about how much time and memory. Nothing is loaded or written."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from sae_core.arms.base import FittedArm
from sae_core.storage import NO_SUPPORT, Layout, planned_bytes, planned_counts
from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryJob
from sweep.lm.find import DTYPES
from sweep.machine.gpus import device_from
from sweep.measures.measures import CleanPass
from sweep.plan.past import Evaluations, Past, past, said
from sweep.plan.steps import Cell, Known, Setup, as_in_a_worker, cell_of, matmul_rate, probed, setup_of, step_of
from sweep.plan.steps import training_bytes as _training_bytes
from sweep.plan.workload import CONTEXTS, EXAMINED, NOVELTY, evaluation_work, recovery_work, steps_of

PROBING = 5.0  # seconds that all probes of a plan may take
_PROCESS = 440 << 20  # of a worker before it has an LM: torch, transformers and what they import
_CUDA_PROCESS = 500 << 20  # on the GPU; as much again and more in the process
_LOGITS = 10  # copies of a batch's logits alive at once
_PAIRS = 3 * 4 << 24  # of atoms compared at once, see `sae_core.theory`
_OF_THE_RATE = 0.9  # of a lone product's speed is what the LM's blocks reach
_FIXED = 0.4  # seconds of any run


class PlannedStorage(NamedTuple):
    """As the record's `storage` will be."""

    learned_decoder_values: int
    compression: float
    learned_parameters: int
    index_bits: int
    value_bits: int
    artifact_bytes: int  # of sae.safetensors, exactly


class Estimate(NamedTuple):
    """Of what is left to do of one run, its LM pass apart."""

    training: float  # seconds
    evaluation: float
    origin: str  # of the larger of the two: "21 records", "probed", "scaled", "guessed"
    memory: int  # bytes, the most that its worker has resident
    gpu: int  # bytes on a GPU, 0 on a CPU

    @property
    def seconds(self) -> float:
        return self.training + self.evaluation


class LMSize(NamedTuple):
    blocks: int  # parameters of all blocks
    parameters: int
    vocabulary: int


class Remaining(NamedTuple):
    """A run to be estimated."""

    job: Job | RecoveryJob
    lacking: list[str] | None  # what is to be measured of a trained run; None where it is to be trained


class Basis(NamedTuple):
    """What estimates are made from."""

    past: Past
    steps: dict[Setup, dict[Cell, Known]]  # seconds of a training step, of the past and of probes
    setups: dict[tuple[str, str], Setup]  # by a job's device and backend
    rates: dict[Any, float]  # multiply-adds a second
    ratios: dict[Any, float]  # seconds of evaluations to those by their work, as they are found


def planned_storage(job: Job) -> PlannedStorage:
    """What the run's SAE will store, from its sizes alone."""
    layout = job.spec.arm.layout(job.info.d_model)
    return PlannedStorage(*planned_counts(layout), planned_bytes(layout))


def planned_memory(job: Job | RecoveryJob) -> int:
    """Bytes that the run's worker will have resident at most."""
    if isinstance(job, RecoveryJob):
        return _recovery_memory(job)
    return _memory(job, setup_of(job.device, job.backend, 1).cuda)[0]


def basis(wanted: Sequence[Remaining], threads: int, budget: float = PROBING) -> Basis:
    """What is known of the time that `wanted` will take in workers of `threads` CPU threads.

    Args:
        budget: seconds for probes of training steps, in all.
    """
    known = past({job.runs_dir for job, _ in wanted})
    one_each = {(job.device, job.backend): job for job, _ in wanted}
    setups = {key: setup_of(job.device, job.backend, threads) for key, job in one_each.items()}
    found = Basis(known, dict(known.steps), setups, {}, {})
    for key, setup in setups.items():
        here = [(job, lacking) for job, lacking in wanted if isinstance(job, Job) and _key(job) == key]
        steps: dict[Cell, float] = {}
        for job in (job for job, lacking in here if lacking is None and job.spec.arm.by_gradient):
            steps[_cell(job)] = steps.get(_cell(job), 0) + _steps(job)
        found.steps[setup] = probed(steps, found.steps.get(setup, {}), *key, setup.threads, budget / len(setups))
        with as_in_a_worker(threads):
            for rate in {(setup, job.info.d_model, job.model.dtype) for job, _ in here}:
                found.rates[rate] = _OF_THE_RATE * matmul_rate(rate[1], device_from(key[0]), DTYPES[rate[2]])
    return found


def estimated(wanted: Remaining, known: Basis) -> Estimate:
    """Time and memory of one run."""
    job, lacking = wanted
    setup = known.setups[_key(job)]
    if isinstance(job, RecoveryJob):
        return _recovery(job, setup, known)
    training, from_ = (0.0, "") if lacking is not None else _training(job, setup, known)
    evaluation, measured_from = _evaluation(job, lacking, setup, known)
    origin = from_ if training > evaluation else measured_from
    return Estimate(training, evaluation, origin, *_memory(job, setup.cuda))


def pass_seconds(job: Job, layers: Sequence[int], known: Basis) -> float:
    """Of the LM pass that captures `layers` for `job`, and of their baselines: three passes over the held-out text."""
    size, info = lm_size(job.info.folder, job.info.d_model), job.info
    through = size.blocks * (max(layers) + 1) / info.n_layers
    held_out = 3 * len(layers) * _held_out(job) * _whole(size, job)
    return (job.spec.activations.tokens * through + held_out) / _rate(job, known)


@lru_cache
def lm_size(folder: Path, d_model: int) -> LMSize:
    """From the headers of the LM's safetensors files, else their size at two bytes a parameter; and its config."""
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    vocabulary = config.get("vocab_size", 0)
    parameters = sum(map(_parameters, folder.glob("*.safetensors")))
    parameters = parameters or sum(file.stat().st_size for file in folder.glob("*.bin")) // 2
    embeddings = vocabulary * d_model * (1 if config.get("tie_word_embeddings") else 2)
    return LMSize(max(parameters - embeddings, 0), parameters, vocabulary)


def _parameters(file: Path) -> int:
    with open(file, "rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def _training(job: Job, setup: Setup, known: Basis) -> tuple[float, str]:
    arm, cell = job.spec.arm, _cell(job)
    if arm.by_gradient:
        step = step_of(cell, known.steps[setup])
        return _FIXED + _steps(job) * step.seconds, step.origin
    fits = known.past.fits.get((setup, arm.label, cell))
    if fits:
        return median(fits), said(len(fits))
    if isinstance(arm, FittedArm):  # moments in float64, eigenvectors
        products = 2 * job.spec.activations.tokens * job.info.d_model**2 + 20 * job.info.d_model**3
        return _FIXED + products / _rate(job, known), "scaled"
    return _FIXED + 3e-7 * cell.layout.n_latents * cell.layout.degree, "guessed"


def _evaluation(job: Job, lacking: list[str] | None, setup: Setup, known: Basis) -> tuple[float, str]:
    """From runs that were asked the same of the same cell, else scaled from those with this LM and text, else from the
    LM's size."""
    cell, asked = _cell(job), _asked(job) if lacking is None else frozenset(lacking)
    text = setup, (job.spec.activations.lm, job.spec.eval.windows)
    same = known.past.evaluations.get(text, {}).get((cell, asked))
    if same:
        return median(same), said(len(same))
    if (text, asked) not in known.ratios:
        known.ratios[text, asked] = _ratio(job, asked, setup, known.past.evaluations.get(text, {}), known)
    return _evaluation_by_work(job, cell, asked, setup, known) * known.ratios[text, asked], "scaled"


def _ratio(job: Job, asked: frozenset[str], setup: Setup, runs: Evaluations, known: Basis) -> float:
    """How much longer than by their work `runs` took, those that were asked the same if there are any."""
    like = {key: seconds for key, seconds in runs.items() if key[1] == asked} or runs
    return median(
        [taken / _evaluation_by_work(job, *key, setup, known) for key, seconds in like.items() for taken in seconds]
        or [1.0]
    )


def _evaluation_by_work(job: Job, cell: Cell, asked: frozenset[str], setup: Setup, known: Basis) -> float:
    tokens, size = _held_out(job), lm_size(job.info.folder, job.info.d_model)
    ours = evaluation_work(cell.layout, cell.k, asked, tokens, size.vocabulary)
    readings = len(asked - {EXAMINED, NOVELTY, CONTEXTS})
    passes = readings if _kept(job, size) else len(asked) + readings
    return _FIXED + ours * _speed(setup, known) + passes * tokens * _whole(size, job) / _rate(job, known)


def _recovery(job: RecoveryJob, setup: Setup, known: Basis) -> Estimate:
    """From runs of the same experiment, else scaled from any, else from its work."""
    spec = {key: value for key, value in json.loads(json.dumps(job.spec.as_json())).items() if key != "seed"}
    alike = [run for run in known.past.recoveries if run.backend == setup.backend]
    same = [run.seconds for run in alike if run.spec == spec]
    memory = _recovery_memory(job)
    if same:
        return Estimate(median(same), 0.0, said(len(same)), memory, 0)
    seconds = _FIXED + _recovery_work(spec) * _speed(setup, known)
    if alike:
        seconds *= median(run.seconds / (_FIXED + _recovery_work(run.spec) * _speed(setup, known)) for run in alike)
    return Estimate(seconds, 0.0, "scaled" if alike else "guessed", memory, 0)


def _recovery_memory(job: RecoveryJob) -> int:
    return _PROCESS + 8 * job.spec.config.trials * job.spec.n_latents


def _recovery_work(spec: Mapping[str, Any]) -> float:
    how = spec["recovery"]
    support = NO_SUPPORT if how["mask"] == "dense" else how["mask"]
    layout = Layout(how["d_in"], spec["n_latents"], spec["degree"], support)
    return recovery_work(layout, spec["k"], how["algorithms"], how["trials"])


def _memory(job: Job, cuda: bool) -> tuple[int, int]:
    """(resident bytes, bytes on the GPU): training's and evaluation's own needs don't add up."""
    size, cell, pool = lm_size(job.info.folder, job.info.d_model), _cell(job), job.spec.activations.tokens
    lm = size.parameters * DTYPES[job.model.dtype].itemsize
    a_batch = job.model.batch_size * job.model.window * size.vocabulary * DTYPES[job.model.dtype].itemsize
    kept = _held_out(job) * size.vocabulary * DTYPES[job.model.dtype].itemsize if _kept(job, size) else 0
    pairs = min(_PAIRS, 12 * cell.layout.n_latents**2)
    work = lm + kept + _LOGITS * a_batch + max(_training_bytes(cell), pairs)
    mapped = 2 * pool * job.info.d_model
    return (_PROCESS + 2 * _CUDA_PROCESS + mapped, _CUDA_PROCESS + work) if cuda else (_PROCESS + mapped + work, 0)


def _kept(job: Job, size: LMSize) -> bool:
    """Whether the clean pass is remembered: `sweep.measures.measures.CleanPass`."""
    a_token = (job.info.d_model + size.vocabulary) * DTYPES[job.model.dtype].itemsize
    return _held_out(job) * a_token <= CleanPass.KEPT_BYTES


def _speed(setup: Setup, known: Basis) -> float:
    """Seconds that a nanosecond's work of `sweep.plan.workload` takes here."""
    steps = known.steps.get(setup)
    if not steps:
        return 1e-9
    return math.exp(fmean(math.log(found.seconds / cell.work) for cell, found in steps.items()))


def _rate(job: Job, known: Basis) -> float:
    return known.rates[known.setups[_key(job)], job.info.d_model, job.model.dtype]


def _whole(size: LMSize, job: Job) -> int:
    """Multiply-adds of a token's whole pass."""
    return size.blocks + size.vocabulary * job.info.d_model


def _held_out(job: Job) -> int:
    return job.spec.eval.windows * job.model.window


def _asked(job: Job) -> frozenset[str]:
    how = job.spec.eval
    also = {NOVELTY: how.novelty, CONTEXTS: how.contexts, EXAMINED: True}
    return frozenset({*how.inference, *(name for name, wanted in also.items() if wanted)})


def _steps(job: Job) -> float:
    recipe, layout = job.spec.train, _cell(job).layout
    return steps_of(recipe.steps, recipe.batch_size, layout.degree, job.spec.arm.schedule)


def _cell(job: Job) -> Cell:
    return cell_of(job.spec.arm.layout(job.info.d_model), job.sizes.k, job.spec.train.batch_size)


def _key(job: Job | RecoveryJob) -> tuple[str, str]:
    return job.device, job.backend
