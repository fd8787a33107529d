"""The state of one training: what a checkpoint must hold besides the data."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import torch

from sae_core.latents import resample_dead
from sae_core.regrow import regrow
from sae_core.sae import SAE
from sweep.store.files import replaced
from sweep.train.config import TrainConfig
from sweep.train.streams import BatchRequest, Delivery, Stream

_DEAD_WINDOW = 1000  # steps: a latent that fired in none of the last ones is reported dead


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

    def next_batch(self, stream: Stream) -> Generator[BatchRequest, Delivery, torch.Tensor]:
        """The clock stands still meanwhile: others who train on the stream may have their turn."""
        self._before = self.seconds()
        given = yield BatchRequest(stream, self.step)
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
