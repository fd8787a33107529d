"""The state of one training: everything that a checkpoint must hold besides the data, which follows from the seed."""

from __future__ import annotations

import shutil
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch

from sae_core.dead_latents import resample_dead
from sae_core.regrow import regrow
from sae_core.sae import SAE
from sweep.store.files import replaced
from sweep.train.config import TrainConfig
from sweep.train.recorded import recording

_DEAD_WINDOW = 1000  # steps; a latent that fired in none of the last ones is reported dead


class CheckpointError(ValueError):
    """A checkpoint is damaged; the caller removes it and starts over."""


class UnsavedError(ValueError):
    """A checkpoint cannot be written; an earlier one is as it was."""


class Progress(NamedTuple):
    """One report of a training."""

    step: int  # steps done
    tokens: int  # tokens seen
    loss: float  # mean over the steps since the last report, on scaled activations
    fvu: float  # the same as a fraction of the pool's variance
    lr: float
    dead_fraction: float  # share of latents that did not fire in the last `dead_tokens` tokens
    dead_tokens: int
    resampled: int  # latents re-aimed so far


class TrainingState:
    """An SAE under training with its optimizer, counters, reports and clock."""

    def __init__(self, sae: SAE, config: TrainConfig, seed: int, code: str):
        device = sae.b_dec.device
        betas, fused = (config.beta1, config.beta2), device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=config.lr, betas=betas, fused=fused)
        self.sae, self.config, self.step, self.resampled = sae, config, 0, 0
        self.recorded = recording(sae)
        self.generator = torch.Generator(device=device).manual_seed(seed)
        n = sae.n_latents
        self.firings = torch.zeros(n, dtype=torch.int64, device=device)  # how often each latent fired since re-aiming
        self.last_fired = torch.zeros(n, dtype=torch.int64, device=device)  # the step at which each latent last fired
        self.reports: list[Progress] = []
        self.exchanged = 0  # entries of the support that changed their row
        self.code_hashes = (code,)
        self._seconds, self._started = 0.0, time.perf_counter()

    def count_firings(self, codes: torch.Tensor, indices: torch.Tensor) -> None:
        """Count the latents that fired in the step just done, those of a code that is not 0; both are (batch, k)."""
        picked, fired = indices.flatten(), (codes != 0).flatten().long()
        self.firings.index_add_(0, picked, fired)  # a mask or bincount would make the host wait for a GPU
        self.last_fired.scatter_reduce_(0, picked, fired * self.step, "amax")

    def resample(self, residual: torch.Tensor, errors: torch.Tensor) -> None:
        """Re-aim dead latents at tokens of the batch that are badly reconstructed.

        Args:
            residual: (batch, d_in), in coordinates of the dictionary's basis.
            errors: (batch,), the squared length of each.
        """
        residual = self.sae.dictionary.basis.out_of(residual)
        self.resampled += resample_dead(
            self.sae, self.firings[: self.sae.dictionary.n_latents], residual, errors, self.generator
        )
        self.firings.zero_()

    def regrow(self, h: torch.Tensor, count: int) -> None:
        """Exchange `count` entries of each atom's support by their gradient on h; Adam's moments follow the values."""
        moments = self.optimizer.state[self.sae.dictionary.values]
        self.exchanged += regrow(self.sae, h.float(), count, (moments["exp_avg"], moments["exp_avg_sq"]))

    def stop_clock(self) -> None:
        """Stop counting seconds: while this training waits for a batch, others may train on the same stream."""
        self._seconds = self.seconds()

    def start_clock(self, waited: float) -> None:
        """Count seconds again, and this training's share of the wait for the batch, `waited` seconds."""
        self._seconds, self._started = self._seconds + waited, time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds that this training has taken, in every process that had a part in it."""
        return self._seconds + time.perf_counter() - self._started

    def progress(self, loss: float, fvu: float) -> Progress:
        """Return the report of the steps up to now."""
        window = min(_DEAD_WINDOW, self.step)
        dead = float((self.last_fired <= self.step - window).double().mean())
        return Progress(
            step=self.step,
            tokens=self.step * self.config.batch_size,
            loss=loss,
            fvu=fvu,
            lr=self.config.lr_at(self.step - 1),
            dead_fraction=dead,
            dead_tokens=window * self.config.batch_size,
            resampled=self.resampled,
        )

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all. Raise UnsavedError where it cannot be written."""
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
            "codes": list(self.code_hashes),
        }
        if self.sae.dictionary.drawn is None:
            state["support"] = self.sae.dictionary.support  # a learned support may have changed
        try:
            with replaced(path) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError):  # torch tells a full disk in words of its own
            free = shutil.disk_usage(path.parent).free
            raise UnsavedError(f"{path} cannot be written: {free:,} bytes are free on its disk") from None

    def load(self, path: Path) -> None:
        """Go on from a checkpoint if there is one. Raise CheckpointError where it is damaged."""
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
            self.exchanged, self._seconds = state["exchanged"], state["seconds"]
            self.code_hashes = tuple(dict.fromkeys([*state["codes"], *self.code_hashes]))
        except FileNotFoundError:
            return
        except PermissionError:  # somebody else's, and not damaged
            raise
        except Exception as error:  # a torn file raises whatever its bytes suggest
            raise CheckpointError(f"{path} cannot be resumed from ({type(error).__name__})") from None
