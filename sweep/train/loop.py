"""Train an SAE on a stream of batches: a plain function, resumable, bit-identical on CPU when resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sae_core.losses import squared_errors
from sae_core.regrow import SupportSchedule
from sae_core.sae import SAE, SAEResidual
from sweep.train.config import TrainConfig, TrainingError
from sweep.train.state import Progress, _State
from sweep.train.streams import Rows, Stream, Trainee, drawn, drive

LOG_EVERY = 50  # steps; also how often the host waits for the device


class Training(NamedTuple):
    """A finished training, what went before a checkpoint included."""

    reports: list[Progress]
    seconds: float
    exchanged: int  # entries of the support that changed their row
    codes: tuple[str, ...]  # `code` of every process that had a part in it, each once


class Stopped(Exception):
    """Somebody asked the training to stop; its checkpoint has all that was done."""


def train(
    sae: SAE,
    rows: Rows,
    n_rows: int,
    variance: float,
    config: TrainConfig,
    seed: int,
    checkpoint: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    schedule: SupportSchedule | None = None,
) -> Training:
    """Fit `sae` in place: `training` of one SAE, from its first batch to its last."""
    stream = Stream(rows, n_rows, seed, config.batch_size, sae.b_dec.device, config.steps)
    (result,) = drive([training(sae, stream, variance, config, checkpoint, report, schedule)])
    if isinstance(result, Exception):
        raise result
    return result


def training(
    sae: SAE,
    stream: Stream,
    variance: float,
    config: TrainConfig,
    checkpoint: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    schedule: SupportSchedule | None = None,
    stop: Callable[[], bool] = lambda: False,
    code: str = "",
) -> Trainee[Training]:
    """Fit `sae` in place, batch by batch as `sweep.train.streams.drive` hands them over: several SAEs may share a stream.

    Args:
        stream: of the pool and the run's seed.
        variance: the pool's total variance in the LM's units, for the reported fvu.
        checkpoint: file to resume from, if it exists, and to write to.
        schedule: how the support changes meanwhile, where it does.
        stop: asked after each report.
        code: what this process runs, kept in checkpoints.

    Raises:
        TrainingError: a loss is NaN or infinite.
        CheckpointError: `checkpoint` is damaged; remove it and start over.
        UnsavedError: `checkpoint` cannot be written.
        Stopped: `stop` said so.
    """
    state = _State(sae, config, stream.seed, code)
    if checkpoint is not None:
        state.load(checkpoint)
    scaled_variance = variance * float(sae.scale) ** 2
    losses: list[torch.Tensor] = []
    saved = state.step
    while state.step < config.steps:
        h = yield from state.next_batch(stream)
        output, errors = train_step(sae, state.optimizer, h, config.lr_at(state.step), config.grad_clip)
        losses.append(errors.mean())
        state.step += 1
        state.count(output.indices)
        if state.step % config.resample_every == 0 and state.step < config.steps:
            _check_finite(losses, state.step)
            state.resample(output.residual, errors)
        if schedule is not None and (count := schedule.count(state.step, config.steps, sae.dictionary.degree)):
            state.regrow(stream.rows(_regrow_indices(stream, state.step, schedule.tokens)).to(stream.device), count)
        if state.step % LOG_EVERY and state.step < config.steps:
            continue
        loss = _check_finite(losses, state.step)
        losses.clear()
        state.reports.append(state.progress(loss, loss / scaled_variance, config))
        report(state.reports[-1])
        # Only right after a report: the losses since the last one are not part of a checkpoint.
        asked = state.step < config.steps and stop()
        due = state.step - saved >= config.checkpoint_every and state.step < config.steps
        if checkpoint is not None and (due or asked):
            state.save(checkpoint)
            saved = state.step
        if asked:
            raise Stopped(f"stopped at step {state.step}")
    return Training(state.reports, state.seconds(), state.exchanged, state.codes)


def train_step(
    sae: SAE, optimizer: torch.optim.Optimizer, h: torch.Tensor, lr: float, grad_clip: float
) -> tuple[SAEResidual, torch.Tensor]:
    """One optimizer step on h (batch, d_in): the residual before it and each token's squared error, both detached."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    output = sae.residual(h)
    errors = squared_errors(output.residual)
    optimizer.zero_grad(set_to_none=True)
    errors.mean().backward()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), grad_clip)
    optimizer.step()
    return SAEResidual(*(part.detach() for part in output)), errors.detach()


def _regrow_indices(stream: Stream, step: int, count: int) -> np.ndarray:
    """Rows of the pool that a change of the support after `step` looks at: (count,)."""
    return drawn(np.random.PCG64([stream.seed, step, 1]), count, stream.n_rows)


def _check_finite(losses: list[torch.Tensor], done: int) -> float:
    """Mean of the losses of the steps up to `done`; raises at the first that is not finite."""
    values = torch.stack(losses).double().cpu()
    bad = torch.nonzero(~torch.isfinite(values)).flatten()
    if len(bad):
        step = done - len(losses) + int(bad[0]) + 1
        raise TrainingError(f"the loss became {values[bad[0]].item()} at step {step}: lower train.lr or grad_clip")
    return float(values.mean())
