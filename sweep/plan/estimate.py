"""Estimate how much time and memory a plan's runs would take. No LM is loaded and nothing is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from sae_core.arms.base import FittedArm
from sae_core.storage import NO_SUPPORT, Layout
from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryJob
from sweep.lm.find import DTYPES
from sweep.machine.gpus import device_from
from sweep.measures.positions import ALL_TOKENS
from sweep.plan.footprint import (
    LMSize,
    clean_pass_is_kept,
    held_out_tokens,
    job_shape,
    kept_logits_bytes,
    recovery_memory,
    run_memory,
    size_of,
)
from sweep.plan.past import Evaluations, Past, counted_records, read_past
from sweep.plan.steps import (
    MeasuredStep,
    Setup,
    StepShape,
    as_in_a_worker,
    estimated_step,
    matmul_rate,
    setup_of,
    with_probes,
)
from sweep.plan.workload import (
    equivalent_steps,
    evaluation_work,
    measurements,
    readings_in,
    recovery_work,
)

PROBING = 5.0  # seconds that all probes of a plan may take
_LM_SPEED = 0.9  # the speed of the LM as a fraction of the speed of one large matrix product
_FIXED = 0.4  # seconds that training and evaluation each take whatever their sizes
_DRAW_VALUE = 3e-7  # seconds to draw one value of a dictionary that is not trained; a guess


class Estimate(NamedTuple):
    """The time and memory of what is left to do of one run, without its LM pass."""

    training: float  # seconds
    evaluation: float  # seconds
    origin: str  # where the larger of the two comes from: "21 records", "probed", "scaled", "guessed"
    memory: int  # bytes, the most that its worker has resident
    gpu: int  # bytes on a GPU, 0 on a CPU

    @property
    def seconds(self) -> float:
        """The time of training and evaluation together."""
        return self.training + self.evaluation


class Remaining(NamedTuple):
    """A run, and the part of it that is left to do."""

    job: Job | RecoveryJob
    lacking: list[str] | None  # what is still to be measured of a trained run; None where it is to be trained


class Basis(NamedTuple):
    """The measured times that estimates are made from."""

    past: Past
    steps: dict[Setup, dict[StepShape, MeasuredStep]]  # times of a training step, from the past and from probes
    setups: dict[tuple[str, str], Setup]  # {(device, backend) of a job: how its worker runs}
    rates: dict[Any, float]  # the LM's multiply-adds a second
    ratios: dict[Any, float]  # measured / predicted seconds of past evaluations; filled in by `_evaluation`


def gather_basis(remaining: Sequence[Remaining], threads: int, budget: float = PROBING) -> Basis:
    """Collect the times that estimates of `remaining` need, in workers of `threads` CPU threads.

    Args:
        budget: seconds that probes of training steps may take together.
    """
    past = read_past({job.runs_dir for job, _ in remaining})
    one_each = {(job.device, job.backend): job for job, _ in remaining}
    setups = {key: setup_of(job.device, job.backend, threads) for key, job in one_each.items()}
    basis = Basis(past, dict(past.steps), setups, {}, {})
    for key, setup in setups.items():
        here = [(job, lacking) for job, lacking in remaining if isinstance(job, Job) and _setup_key(job) == key]
        steps: dict[StepShape, float] = {}
        for job in (job for job, lacking in here if lacking is None and job.spec.arm.by_gradient):
            steps[job_shape(job)] = steps.get(job_shape(job), 0) + _steps_of(job)
        measured = basis.steps.get(setup, {})
        basis.steps[setup] = with_probes(steps, measured, *key, setup.threads, budget / len(setups))
        with as_in_a_worker(threads):
            for width, dtype in {(job.info.d_model, job.model.dtype) for job, _ in here}:
                rate = matmul_rate(width, device_from(key[0]), DTYPES[dtype])
                basis.rates[setup, width, dtype] = _LM_SPEED * rate
    return basis


def estimate_run(remaining: Remaining, basis: Basis) -> Estimate:
    """Return the time and memory that what is left of a run will take."""
    job, lacking = remaining
    setup = basis.setups[_setup_key(job)]
    if isinstance(job, RecoveryJob):
        return _recovery(job, setup, basis)
    training, training_origin = (0.0, "") if lacking is not None else _training(job, setup, basis)
    evaluation, evaluation_origin = _evaluation(job, lacking, setup, basis)
    origin = training_origin if training > evaluation else evaluation_origin
    return Estimate(training, evaluation, origin, *run_memory(job, setup.cuda))


def pass_seconds(job: Job, layers: Sequence[int], basis: Basis) -> float:
    """Return the seconds of the LM pass that captures `layers` for `job`, and of their baselines.

    The pass is over the training and the held-out text, up to the deepest layer. Baselines are at most three passes
    over the held-out text for each layer, from the layer up.
    """
    size, info = size_of(job), job.info
    to_last_layer = size.blocks * (max(layers) + 1) / info.n_layers  # multiply-adds a token
    captured = (captured_tokens(job) + held_out_tokens(job)) * to_last_layer
    # Where ablations replace all tokens, they make windows alike, of which one runs; else many may differ.
    passes = 1 if job.spec.mask_policy == ALL_TOKENS else 3
    baselines = passes * held_out_tokens(job) * sum(_products_above(size, job, layer) for layer in layers)
    return (captured + baselines) / _lm_rate(job, basis)


def captured_tokens(job: Job) -> int:
    """Return the tokens of training text that go through the LM: once each, or as many as a streamed training uses."""
    recipe, key = job.spec.train, job.spec.activations
    return key.tokens if key.stream is None else recipe.steps * recipe.batch_size


def _training(job: Job, setup: Setup, basis: Basis) -> tuple[float, str]:
    """Return the seconds of the run's training, and where they come from."""
    arm, shape = job.spec.arm, job_shape(job)
    if arm.by_gradient:
        step = estimated_step(shape, basis.steps[setup])
        return _FIXED + _steps_of(job) * step.seconds, step.origin
    fits = basis.past.fits.get((setup, arm.label, shape))
    if fits:
        return median(fits), counted_records(len(fits))
    if isinstance(arm, FittedArm):
        products = arm.fit_products(job.spec.activations.tokens, job.info.d_model)
        return _FIXED + products / _lm_rate(job, basis), "scaled"
    return _FIXED + _DRAW_VALUE * shape.layout.n_latents * shape.layout.degree, "guessed"


def _evaluation(job: Job, lacking: list[str] | None, setup: Setup, basis: Basis) -> tuple[float, str]:
    """Return the seconds of the run's evaluation, and where they come from.

    1. It is the median of finished runs of the same shape that made the same measurements.
    2. Where there are none, the work predicts it, corrected by finished runs on the same LM and text.
    3. Where there are none of these either, the predicted work alone says it.
    """
    shape, measured = job_shape(job), _measured_by(job) if lacking is None else frozenset(lacking)
    text = setup, (job.spec.activations.lm, job.spec.eval.windows)
    runs = basis.past.evaluations.get(text, {})
    same = runs.get((shape, measured))
    if same:
        return median(same), counted_records(len(same))
    if (text, measured) not in basis.ratios:
        basis.ratios[text, measured] = _ratio_to_work(job, measured, setup, runs, basis)
    return _evaluation_by_work(job, shape, measured, setup, basis) * basis.ratios[text, measured], "scaled"


def _ratio_to_work(job: Job, measured: frozenset[str], setup: Setup, runs: Evaluations, basis: Basis) -> float:
    """Return how much longer than predicted by work past evaluations took, or 1 where there is none.

    Evaluations that measured the same are preferred.
    """
    alike = {key: seconds for key, seconds in runs.items() if key[1] == measured} or runs
    ratios: list[float] = []
    for (shape, what), times in alike.items():
        predicted = _evaluation_by_work(job, shape, what, setup, basis)
        ratios += [seconds / predicted for seconds in times]
    return median(ratios or [1.0])


def _evaluation_by_work(job: Job, shape: StepShape, measured: frozenset[str], setup: Setup, basis: Basis) -> float:
    """Return the seconds of an evaluation as its work and the LM's size predict them."""
    tokens, size = held_out_tokens(job), size_of(job)
    sae_work = evaluation_work(shape.layout, shape.k, measured, tokens, size.vocabulary)
    readings = len(readings_in(measured))
    # The LM runs from the layer up once for each reading, and once more where its clean logits are not kept.
    kept = clean_pass_is_kept(job, size) or kept_logits_bytes(job, size) > 0
    passes = readings + (readings > 0 and not kept)
    lm = passes * tokens * _products_above(size, job, job.axes["layer"]) / _lm_rate(job, basis)
    return _FIXED + sae_work * _measured_over_predicted(setup, basis) + lm


def _recovery(job: RecoveryJob, setup: Setup, basis: Basis) -> Estimate:
    """Return a recovery experiment's time from runs of the same one, else scaled from any, else from its work."""
    spec = {key: value for key, value in json.loads(json.dumps(job.spec.as_json())).items() if key != "seed"}
    alike = [run for run in basis.past.recoveries if run.backend == setup.backend]
    same = [run.seconds for run in alike if run.spec == spec]
    memory = recovery_memory(job)
    if same:
        return Estimate(median(same), 0.0, counted_records(len(same)), memory, 0)

    def by_work(of: Mapping[str, Any]) -> float:
        return _FIXED + _recovery_work(of) * _measured_over_predicted(setup, basis)

    ratio = median(run.seconds / by_work(run.spec) for run in alike) if alike else 1.0
    return Estimate(by_work(spec) * ratio, 0.0, "scaled" if alike else "guessed", memory, 0)


def _recovery_work(spec: Mapping[str, Any]) -> float:
    """Return the predicted work, in ns, of the recovery experiment with this spec."""
    config = spec["recovery"]
    support = NO_SUPPORT if config["mask"] == "dense" else config["mask"]
    layout = Layout(config["d_in"], spec["n_latents"], spec["degree"], support)
    return recovery_work(layout, spec["k"], config["algorithms"], config["trials"])


def _measured_over_predicted(setup: Setup, basis: Basis) -> float:
    """Return the seconds measured on this machine for each nanosecond that `sweep.plan.workload` predicts.

    Where nothing has been measured it is 1e-9.
    """
    steps = basis.steps.get(setup)
    if not steps:
        return 1e-9
    return math.exp(fmean(math.log(measured.seconds / shape.work) for shape, measured in steps.items()))


def _lm_rate(job: Job, basis: Basis) -> float:
    """Return the multiply-adds a second of the job's LM."""
    return basis.rates[basis.setups[_setup_key(job)], job.info.d_model, job.model.dtype]


def _products_above(size: LMSize, job: Job, layer: int) -> float:
    """Return the multiply-adds of one token's pass through the LM from block `layer`'s output up."""
    return size.blocks * (1 - (layer + 1) / job.info.n_layers) + size.vocabulary * job.info.d_model


def _measured_by(job: Job) -> frozenset[str]:
    asked = job.spec.eval
    return measurements(asked.inference, asked.novelty, asked.contexts, asked.probing)


def _steps_of(job: Job) -> float:
    """Return how many plain steps take as long as the job's training."""
    recipe, layout = job.spec.train, job_shape(job).layout
    return equivalent_steps(recipe.steps, recipe.batch_size, layout.degree, job.spec.arm.schedule)


def _setup_key(job: Job | RecoveryJob) -> tuple[str, str]:
    return job.device, job.backend
