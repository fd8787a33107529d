"""The settings of a training, and the error that a training raises."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sae_core.hashed import changes_no_result


class TrainingError(ValueError):
    """A training cannot go on, or a setting of it is out of range."""


@dataclass(frozen=True)
class TrainConfig:
    """The recipe by which an SAE is trained. The defaults are the paper's (section 2), `input_scale` excepted.

    Args:
        steps, batch_size: SGD steps and tokens per step, drawn from the pool with replacement.
        lr, lr_final: Adam's learning rate falls from lr to lr_final by a cosine over all steps.
        beta1, beta2: the decay rates of Adam's two moments.
        grad_clip: the largest l2 norm that the whole gradient may have; a longer one is scaled down to it.
        resample_min_steps, resample_fraction: dead latents are re-aimed every
            max(resample_min_steps, resample_fraction * steps) steps.
        input_scale: "unit" multiplies activations by one scalar, so that their mean norm over the pool is
            sqrt(d_in); "none" is the paper's.
        checkpoint_every: steps between checkpoints; it changes no result.
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
    checkpoint_every: int = changes_no_result(1000)

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
        """Steps between two re-aimings of dead latents."""
        return max(self.resample_min_steps, int(self.resample_fraction * self.steps))

    def lr_at(self, step: int) -> float:
        """Return the learning rate of `step`, counted from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.lr_final + (self.lr - self.lr_final) * cosine
