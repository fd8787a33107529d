"""A synthetic recovery experiment: its conditions, its spec and its job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sae_core.arms import CellError, Sizes
from sae_core.pursuit.solvers import canonical
from sae_core.supports import check_degree
from sweep.store.hashes import short_hash
from sweep.store.records import Record
from sweep.tracking.wandb_tracker import TrackerConfig

MASKS, VALUES, CODES = ("expander", "clustered", "dense"), ("gaussian", "flat"), ("gaussian", "positive", "signs")


ONE_SHOT = ("topk", "topk_magnitude")  # the k best correlations at once, then least squares


@dataclass(frozen=True)
class RecoveryConfig:
    """The conditions of one experiment.

    Args:
        d_in: rows of the dictionary.
        mask: expander, clustered or dense.
        values: of the atoms, before each is scaled to unit norm: "gaussian" or "flat" (+-1).
        codes: planted on k atoms drawn at random: "gaussian", "positive" (its magnitude) or "signs" (+-1).
        noise: Gaussian noise added to each target, its norm as a fraction of the target's.
        trials: targets.
        algorithms: pursuits by name (`sae_core.pursuit.solvers`), or topk, topk_magnitude.
    """

    d_in: int = 512
    mask: str = "expander"
    values: str = "gaussian"
    codes: str = "gaussian"
    noise: float = 0.0
    trials: int = 200
    algorithms: tuple[str, ...] = ("omp_magnitude",)

    def __post_init__(self):
        for key, known in (("mask", MASKS), ("values", VALUES), ("codes", CODES)):
            if getattr(self, key) not in known:
                raise ValueError(f"recovery.{key}={getattr(self, key)} must be one of {', '.join(known)}")
        for key in ("d_in", "trials"):
            if getattr(self, key) < 1:
                raise ValueError(f"recovery.{key}={getattr(self, key)} must be at least 1")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"recovery.noise={self.noise} must be at least 0 and finite")
        try:
            names = [name if name in ONE_SHOT else canonical(name) for name in self.algorithms]
        except ValueError as error:
            raise ValueError(f"recovery.algorithms={list(self.algorithms)}: {error}, topk, topk_magnitude") from None
        if not names:
            raise ValueError("recovery.algorithms must name at least one pursuit")
        object.__setattr__(self, "algorithms", tuple(dict.fromkeys(names)))


@dataclass(frozen=True)
class RecoverySpec:
    """What determines the result; the degree is d_in where atoms are dense."""

    config: RecoveryConfig
    n_latents: int
    degree: int
    k: int
    seed: int
    run_id: str = field(init=False, repr=False, compare=False)  # hash of the spec

    def __post_init__(self):
        object.__setattr__(self, "run_id", short_hash(self.as_json()))
        check_degree(self.config.d_in, self.degree)
        if self.n_latents <= 2 * self.k:
            raise CellError(f"n={self.n_latents} <= 2k={2 * self.k}: {self.k}-sparse codes cannot be unique")

    def as_json(self) -> dict[str, Any]:
        sizes = {"n_latents": self.n_latents, "degree": self.degree, "k": self.k, "seed": self.seed}
        return {"recovery": asdict(self.config), **sizes}


@dataclass(frozen=True)
class RecoveryJob:
    """One cell, ready to start."""

    spec: RecoverySpec
    axes: dict[str, int]
    labels: dict[str, str]
    tracker: TrackerConfig
    runs_dir: Path
    device: str
    backend: str
    threads: int | None
    settings: dict[str, Any]  # the whole resolved config

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.spec.n_latents, self.spec.degree, self.spec.k)

    def lacking(self, record: Record) -> list[str]:
        """What a complete record still lacks: nothing."""
        return []

    @property
    def title(self) -> str:
        spec = self.spec
        sizes = f"d={spec.degree} k={spec.k} n={spec.n_latents}"
        return f"{spec.config.mask} {sizes} noise={spec.config.noise:g} s{spec.seed}"
