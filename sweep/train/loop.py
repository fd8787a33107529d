"""Train an SAE on a stream of batches: a plain function, resumable, bit-identical on CPU when resumed."""

from __future__ import annotations

import math
import shutil
import time
import zipfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sae_core.latents import resample_dead
from sae_core.losses import squared_errors
from sae_core.regrow import SupportSchedule, regrow
from sae_core.sae import SAE, SAEResidual
from sweep.store.files import replaced
from sweep.train.streams import Given, Rows, Stream, Trainee, Wanted, drawn, drive

LOG_EVERY = 50  # steps; also how often the host waits for the device
_DEAD_WINDOW = 1000  # steps: a latent that fired in none of the last ones is reported dead


class TrainingError(ValueError):
    """Training cannot go on; the message has the step."""


@dataclass(frozen=True)
class TrainConfig:
    """The recipe. Defaults are the paper's (section 2), `input_scale` excepted.

    Args:
        steps, batch_size: SGD steps and tokens per step, drawn from the pool with replacement.
        lr, lr_final: Adam's learning rate falls from lr to lr_final by a cosine over all steps.
        beta1, beta2: Adam's.
        grad_clip: largest global l2 norm of the gradient.
        resample_min_steps, resample_fraction: dead latents are re-aimed every
            max(resample_min_steps, resample_fraction * steps) steps.
        input_scale: "unit" multiplies activations by one scalar, so that their mean norm over the pool is
            sqrt(d_in); "none" is the paper's.
        checkpoint_every: steps between checkpoints; changes no result.
    """

    steps: int = 5000
    batch_size: int = 256
    lr: float = 3e-4
    lr_final: float = 1e-5
    beta1: float = 0.9
    beta2: float = 0.999
    grad_clip: float = 1.0
    resample_min_steps: int = 1000
    resample_fraction: float = 0.2
    input_scale: str = "unit"
    checkpoint_every: int = 1000

    def __post_init__(self):
        for name in ("steps", "batch_size", "resample_min_steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"train.{name}={getattr(self, name)} must be at least 1")
        for name in ("lr", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise TrainingError(f"train.{name}={getattr(self, name)} must be positive and finite")
        if not 0 <= self.lr_final <= self.lr:
            raise TrainingError(f"train.lr_final={self.lr_final} must be in 0..{self.lr} (train.lr)")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"train.{name}={getattr(self, name)} must be in 0..1, 1 excluded")
        if not 0 <= self.resample_fraction <= 1:
            raise TrainingError(f"train.resample_fraction={self.resample_fraction} must be in 0..1")
        if self.input_scale not in ("unit", "none"):
            raise TrainingError(f"train.input_scale={self.input_scale} must be unit or none")

    @property
    def resample_every(self) -> int:
        return max(self.resample_min_steps, int(self.resample_fraction * self.steps))

    def lr_at(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.lr_final + (self.lr - self.lr_final) * cosine


class Progress(NamedTuple):
    """What is said every LOG_EVERY steps and at the end."""

    step: int  # steps done
    tokens: int  # tokens seen
    loss: float  # mean over the steps since the last report, scaled units
    fvu: float  # the same, as a fraction of the pool's variance
    lr: float
    dead_fraction: float  # latents that did not fire in the last `dead_tokens` tokens
    dead_tokens: int
    resampled: int  # latents re-aimed so far


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


class _State:
    """All that a checkpoint must hold besides the data, which follows from seed and step."""

    def __init__(self, sae: SAE, config: TrainConfig, seed: int, code: str):
        device = sae.b_dec.device
        betas, fused = (config.beta1, config.beta2), device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=config.lr, betas=betas, fused=fused)
        self.sae, self.step, self.resampled = sae, 0, 0
        self.generator = torch.Generator(device=device).manual_seed(seed)
        n = sae.dictionary.n_latents
        self.firings = torch.zeros(n, dtype=torch.int64, device=device)  # since the last re-aiming
        self.last_fired = torch.zeros(n, dtype=torch.int64, device=device)  # step count at the last firing
        self.reports: list[Progress] = []
        self.exchanged = 0
        self.codes = (code,)
        self._before, self._since = 0.0, time.perf_counter()

    def count(self, indices: torch.Tensor) -> None:
        """Note who fired in the step just done."""
        fired = indices.flatten()
        self.firings.index_add_(0, fired, torch.ones_like(fired))  # bincount would make the host wait for a GPU
        self.last_fired.index_fill_(0, fired, self.step)

    def resample(self, residual: torch.Tensor, errors: torch.Tensor) -> None:
        self.resampled += resample_dead(self.sae, self.firings, residual, errors, self.generator)
        self.firings.zero_()

    def regrow(self, h: torch.Tensor, count: int) -> None:
        """Exchange entries of the support; Adam's moments move with the values."""
        moments = self.optimizer.state[self.sae.dictionary.values]
        self.exchanged += regrow(self.sae, h.float(), count, (moments["exp_avg"], moments["exp_avg_sq"]))

    def next_batch(self, stream: Stream) -> Generator[Wanted, Given, torch.Tensor]:
        """The clock stands still meanwhile: others who train on the stream may have their turn."""
        self._before = self.seconds()
        given = yield Wanted(stream, self.step)
        self._before, self._since = self._before + given.seconds, time.perf_counter()
        return given.batch

    def seconds(self) -> float:
        """In this training, in all processes that had a part in it."""
        return self._before + time.perf_counter() - self._since

    def progress(self, loss: float, fvu: float, config: TrainConfig) -> Progress:
        window = min(_DEAD_WINDOW, self.step)
        dead = float((self.last_fired <= self.step - window).double().mean())
        return Progress(
            step=self.step,
            tokens=self.step * config.batch_size,
            loss=loss,
            fvu=fvu,
            lr=config.lr_at(self.step - 1),
            dead_fraction=dead,
            dead_tokens=window * config.batch_size,
            resampled=self.resampled,
        )

    def save(self, path: Path) -> None:
        state = {
            "sae": self.sae.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "firings": self.firings,
            "last_fired": self.last_fired,
            "step": self.step,
            "resampled": self.resampled,
            "reports": [tuple(report) for report in self.reports],
            "exchanged": self.exchanged,
            "seconds": self.seconds(),
            "codes": list(self.codes),
        }
        if self.sae.dictionary.drawn is None:
            state["support"] = self.sae.dictionary.support  # may have changed
        try:
            with replaced(path) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError):  # torch tells a full disk in words of its own
            free = shutil.disk_usage(path.parent).free
            raise UnsavedError(f"{path} cannot be written: {free:,} bytes are free on its disk") from None

    def load(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:  # torch.load compares no checksums: flipped bits would be trained on
                if (name := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(name)
            state = torch.load(path, map_location=self.firings.device, weights_only=True)
            self.sae.load_state_dict(state["sae"])
            if "support" in state:
                self.sae.dictionary.support = state["support"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"].cpu())
            self.firings, self.last_fired = state["firings"], state["last_fired"]
            self.step, self.resampled = state["step"], state["resampled"]
            self.reports = [Progress(*report) for report in state["reports"]]
            self.exchanged, self._before = state["exchanged"], state["seconds"]
            self.codes = tuple(dict.fromkeys([*state["codes"], *self.codes]))
        except FileNotFoundError:
            return
        except Exception as error:  # a torn file raises whatever its bytes suggest
            raise CheckpointError(f"{path} cannot be resumed from ({type(error).__name__})") from None


class CheckpointError(ValueError):
    """A checkpoint is damaged; the caller removes it and starts over."""


class UnsavedError(ValueError):
    """A checkpoint cannot be written; an earlier one is as it was."""
