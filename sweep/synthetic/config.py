"""The settings of a synthetic model, and the stand-in for the text that its samples come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sae_core.hashed import changes_no_result, hashed_fields, later
from sweep.corpus.documents import Document
from sweep.corpus.windows import Windows
from sweep.lm.errors import ModelError
from sweep.lm.find import ModelInfo
from sweep.store.hashes import short_hash

_HELD_OUT = 1 << 40  # the first held-out sample: no training is so long


@dataclass(frozen=True)
class SyntheticConfig:
    """The settings that determine a synthetic model. The field's names for them are those of SynthSAEBench.

    A sample is bias + sum over features i of a_i f_i, with unit vectors f_i and activations a_i >= 0.

    Args:
        name: the model's name for people.
        d_in: dimensions of a sample.
        n_features: features, the most frequent first.
        feature_degree: non-zero coordinates of a feature, drawn at random; None for dense features.
        exponent, max_prob, min_prob: a feature of rank r fires with a probability that falls as r^-exponent, from
            max_prob for the first to min_prob for the last (Zipf's law).
        roots, branching, depth: features form a forest of `roots` trees: each feature above the depth has `branching`
            children, which fire only where it does, and the rest are features of no tree. No roots, no trees.
        exclusive: of the children of one parent at most one fires on a sample.
        mean_first, mean_last: the mean of a feature's activation where it fires, linear in its rank.
        std: spread of a_i where feature i fires; the spread itself is drawn for each feature as |N(std, std^2)|.
        correlation_rank, correlation_scale: firings are correlated by a Gaussian copula whose correlation matrix is
            F F^T + a diagonal, F (n_features, rank) with entries N(0, scale^2). A rank of 0 makes them independent.
        orthogonal_steps, orthogonal_lr: steps of Adam that make features more nearly orthogonal.
        bias: the norm of the constant part of a sample.
        seed: draws the model; the samples follow from it.
        window: samples that are drawn together.
        batch_size: such windows a pass makes at a time.

    Raises:
        ModelError: a setting is out of range.
    """

    name: str = "synthetic"
    d_in: int = 256
    n_features: int = 2048
    feature_degree: int | None = None
    exponent: float = 0.5
    max_prob: float = 0.4
    min_prob: float = 5e-4
    roots: int = 16
    branching: int = 4
    depth: int = 3
    exclusive: bool = True
    mean_first: float = 5.0
    mean_last: float = 4.0
    std: float = 0.5
    correlation_rank: int = 25
    correlation_scale: float = 0.1
    orthogonal_steps: int = 100
    orthogonal_lr: float = 3e-4
    bias: float = 0.5
    seed: int = 42
    window: int = 512
    batch_size: int = changes_no_result(4)
    format: int = later(1)  # raised when the same settings give other samples

    # What the settings of an LM say and a synthetic model has no choice of.
    dtype = "float32"
    auto_dtype = False
    outlier_norm = None

    def __post_init__(self):
        least = {"d_in": 2, "n_features": 2, "roots": 0, "branching": 2, "depth": 1, "correlation_rank": 0}
        least |= {"orthogonal_steps": 0, "seed": 0, "window": 2, "batch_size": 1}
        for key, bound in least.items():
            if getattr(self, key) < bound:
                raise ModelError(f"model.{key}={getattr(self, key)} must be at least {bound}")
        for key in ("exponent", "mean_first", "mean_last", "orthogonal_lr"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ModelError(f"model.{key}={getattr(self, key)} must be positive and finite")
        for key in ("std", "correlation_scale", "bias"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ModelError(f"model.{key}={getattr(self, key)} must be at least 0 and finite")
        if not 0 < self.min_prob < self.max_prob <= 1:
            raise ModelError(f"model.min_prob={self.min_prob} and max_prob={self.max_prob} must be 0 < min < max <= 1")
        if self.feature_degree is not None and not 1 <= self.feature_degree <= self.d_in:
            raise ModelError(f"model.feature_degree={self.feature_degree} must be in 1..{self.d_in} (d_in), or null")

    @property
    def label(self) -> str:
        """The model's name in figures and records."""
        return self.name

    @property
    def digest(self) -> str:
        """16 hex digits that name the model: the hash of every setting that changes a sample."""
        return short_hash("synthetic", {key: value for key, value in hashed_fields(self).items() if key != "name"})

    @property
    def info(self) -> ModelInfo:
        """What is known of the model before it is drawn: that it has a single layer, and no vocabulary."""
        return ModelInfo(Path(), "synthetic", self.d_in, n_layers=1, context=None)


@dataclass(frozen=True)
class SyntheticCorpus:
    """The samples of a synthetic model, where an LM has a text."""

    @property
    def label(self) -> str:
        """The name in figures and records."""
        return "synthetic"

    def documents(self) -> Iterator[Document]:
        """Yield nothing: samples are made by number."""
        return iter(())

    def fingerprint(self, cache_dir: Path) -> str:
        """Return a name of the samples, which follow from the model."""
        return "synthetic"


def train_samples(config: SyntheticConfig, count: int) -> Windows:
    """Return the numbers of the first `count` samples; the last window is cut to fit."""
    return _numbered(0, count, config.window)


def held_out_samples(config: SyntheticConfig, n_windows: int) -> Windows:
    """Return the numbers of `n_windows` windows of samples that no training sees."""
    return _numbered(_HELD_OUT, n_windows * config.window, config.window)


def _numbered(first: int, count: int, window: int) -> Windows:
    n_windows = -(-count // window)
    numbers = first // window * window + np.arange(n_windows * window).reshape(n_windows, window)
    lengths = np.full(n_windows, window)
    lengths[-1] = count - (n_windows - 1) * window
    numbers[-1, lengths[-1] :] = numbers[-1, 0]  # padding names a sample of the same window
    return Windows(numbers, lengths)
