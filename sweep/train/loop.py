"""Train an SAE on a stream of batches; a training can be resumed, and then ends bit-identical on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from sae_core.gradients import loss_gradients
from sae_core.quantised import use_rounded
from sae_core.regrow import SupportSchedule
from sae_core.rounding import Rounding
from sae_core.sae import SAE, SAEResidual
from sweep.train.adam import clipped_step
from sweep.train.config import TrainConfig, TrainingError
from sweep.train.recorded import RecordedGradients
from sweep.train.state import Progress, TrainingState
from sweep.train.streams import Batches, BatchRequest, Rows, Stream, Trainee, drive

LOG_EVERY = 50  # steps between two reports; at a report the host waits for the device


class Training(NamedTuple):
    """A finished training. What was done before a checkpoint is included."""

    reports: list[Progress]
    seconds: float
    exchanged: int  # entries of the support that changed their row
    code_hashes: tuple[str, ...]  # of the program code of every process that trained, each once


class Stopped(Exception):
    """A training ended early because it was asked to; its checkpoint holds all that was done.

    Args:
        step: the steps that were done.
        why: what it was asked for, in one line.
    """

    def __init__(self, step: int, why: str):
        super().__init__(f"stopped at step {step}: {why}")
        self.step, self.why = step, why


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
    rounding: Rounding | None = None,
) -> Training:
    """Train one SAE in place, from its first batch to its last. Arguments and errors are those of `training`."""
    stream = Stream(rows, n_rows, seed, config.batch_size, sae.b_dec.device, config.steps)
    (result,) = drive([training(sae, stream, variance, config, checkpoint, report, schedule, rounding)])
    if isinstance(result, Exception):
        raise result
    return result


def training(
    sae: SAE,
    stream: Batches,
    variance: float,
    config: TrainConfig,
    checkpoint: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    schedule: SupportSchedule | None = None,
    rounding: Rounding | None = None,
    stop: Callable[[], str | None] = lambda: None,
    code: str = "",
) -> Trainee[Training]:
    """Train an SAE in place, a batch at a time, in training mode; it ends in evaluation mode.

    This is a generator: it asks for each batch and is sent it, so that `sweep.train.streams.drive` can train several
    SAEs on one stream.

    Args:
        stream: the batches.
        variance: the total variance of the activations in the LM's units, which turns the loss into the reported FVU.
        checkpoint: the file to resume from, if it exists, and to write checkpoints to.
        report: called every LOG_EVERY steps and at the end.
        schedule: how the support changes during training; None where it stays.
        rounding: when and to what values are rounded while they are trained; None leaves `sae` as it is.
        stop: asked after each report whether to end early; it returns why, or None to go on.
        code: the hash of the code that this process runs; checkpoints keep it.

    Raises:
        TrainingError: a loss is NaN or infinite.
        CheckpointError: `checkpoint` is damaged; remove it and start over.
        UnsavedError: `checkpoint` cannot be written.
        Stopped: `stop` asked for it.
    """
    state = TrainingState(sae, config, stream.seed, code)
    if checkpoint is not None:
        state.load(checkpoint)
    scaled_variance = variance * float(sae.scale) ** 2
    losses: list[torch.Tensor] = []
    saved_at = state.step
    sae.train()
    while state.step < config.steps:
        state.stop_clock()
        delivery = yield BatchRequest(stream, state.step)
        state.start_clock(delivery.seconds)
        if rounding is not None:
            use_rounded(sae, rounding.grids if rounding.started(state.step, config.steps) else None)
        _advance(state, delivery.batch, stream, schedule, losses)
        if state.step % LOG_EVERY and state.step < config.steps:
            continue
        loss = _mean_loss(losses, state.step)
        losses.clear()
        state.reports.append(state.progress(loss, loss / scaled_variance))
        report(state.reports[-1])
        # A checkpoint is written only right after a report: it does not hold the losses since the last one.
        why = stop() if state.step < config.steps else None
        due = state.step - saved_at >= config.checkpoint_every and state.step < config.steps
        if checkpoint is not None and (due or why is not None):
            state.save(checkpoint)
            saved_at = state.step
        if why is not None:
            raise Stopped(state.step, why)
    sae.eval()
    return Training(state.reports, state.seconds(), state.exchanged, state.code_hashes)


def _advance(
    state: TrainingState, h: torch.Tensor, stream: Batches, schedule: SupportSchedule | None, losses: list[torch.Tensor]
) -> None:
    """Do one step on the batch h: the optimizer's, and where they are due the re-aiming and the change of support."""
    sae, config = state.sae, state.config
    lr = config.lr_at(state.step)
    output, errors = train_step(sae, state.optimizer, h, lr, config.grad_clip, state.recorded)
    sae.dictionary.constrain()
    losses.append(errors.mean())
    state.step += 1
    state.count_firings(output.codes, output.indices)
    if state.step % config.resample_every == 0 and state.step < config.steps:
        _mean_loss(losses, state.step)
        state.resample(output.residual, errors)
    if schedule is not None and (count := schedule.count(state.step, config.steps, sae.dictionary.degree)):
        state.regrow(stream.sample(state.step, schedule.tokens).to(stream.device), count)


def train_step(
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    h: torch.Tensor,
    lr: float,
    grad_clip: float,
    recorded: RecordedGradients | None = None,
) -> tuple[SAEResidual, torch.Tensor]:
    """Do one optimizer step on h (batch, d_in).

    Args:
        recorded: makes the gradients, of this `sae`; what is returned is then overwritten by its next call.

    Returns:
        the residual before the step, in coordinates of the dictionary's basis, and each token's squared error (batch,),
        both detached.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    if recorded is not None:
        results = recorded(h, grad_clip)
        optimizer.step()
        return results
    results = loss_gradients(sae, h)
    clipped_step(optimizer, grad_clip)
    return results


def _mean_loss(losses: list[torch.Tensor], done: int) -> float:
    """Return the mean of the losses up to step `done`. Raise TrainingError at the first that is not finite."""
    values = torch.stack(losses).double().cpu()
    bad = torch.nonzero(~torch.isfinite(values)).flatten()
    if len(bad):
        step = done - len(losses) + int(bad[0]) + 1
        raise TrainingError(f"the loss became {values[bad[0]].item()} at step {step}: lower train.lr or grad_clip")
    return float(values.mean())
