"""A synthetic recovery experiment: its conditions, the spec that determines its result, and its job."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_core.arms import Sizes
from sae_core.hashed import hashed_fields
from sae_core.pursuit.solvers import canonical
from sae_core.sizes import check_degree, check_sparsity
from sweep.store.hashes import short_hash
from sweep.store.records import Record
from sweep.tracking.wandb_tracker import TrackerConfig

MASKS = ("expander", "clustered", "dense")
VALUES = ("gaussian", "flat")
CODES = ("gaussian", "positive", "signs")
ONE_SHOT = ("topk", "topk_magnitude")  # they pick the k best correlations at once, then solve for the codes


@dataclass(frozen=True)
class RecoveryConfig:
    """The conditions of one experiment.

    Args:
        d_in: rows of the dictionary.
        mask: which rows an atom may use: expander, clustered or dense.
        values: how an atom's values are drawn, before the atom is scaled to unit norm: "gaussian", or "flat" (+-1).
        codes: how the codes of the k planted atoms are drawn: "gaussian", "positive" (the magnitudes of
            Gaussian numbers) or "signs" (+-1).
        noise: the norm of the Gaussian noise added to each target, as a fraction of the target's norm.
        trials: how many targets are planted.
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
    """Everything that determines an experiment's result; `degree` is d_in where atoms are dense."""

    config: RecoveryConfig
    n_latents: int
    degree: int
    k: int
    seed: int
    run_id: str = field(init=False, repr=False, compare=False)  # 16 hex digits: the hash of all the rest

    def __post_init__(self):
        object.__setattr__(self, "run_id", short_hash(self.as_json()))
        check_degree(self.config.d_in, self.degree)
        check_sparsity(self.n_latents, self.k)

    def as_json(self) -> dict[str, Any]:
        """Return the spec as plain values, as records keep it."""
        sizes = {"n_latents": self.n_latents, "degree": self.degree, "k": self.k, "seed": self.seed}
        return {"recovery": hashed_fields(self.config), **sizes}


@dataclass(frozen=True)
class RecoveryJob:
    """One synthetic experiment, ready to start: its spec, and what is needed to carry it out.

    Args:
        settings: the whole resolved config.
        launch: the name of the launch that it is made in.
    """

    spec: RecoverySpec
    settings: dict[str, Any]
    launch: str
    tracker: TrackerConfig
    runs_dir: Path
    device: str
    backend: str
    threads: int | None

    @property
    def axes(self) -> dict[str, int]:
        """The sweep's axes: d, k, n and seed; there is no layer."""
        spec = self.spec
        return {"d": spec.degree, "k": spec.k, "n": spec.n_latents, "seed": spec.seed}

    @property
    def labels(self) -> dict[str, str]:
        """The experiment's names, where a run of an SAE has those of its LM, text, arm and launch."""
        config = self.spec.config
        return {"model": "synthetic", "corpus": f"codes:{config.codes}", "arm": config.mask, "sweep": self.launch}

    @property
    def sizes(self) -> Sizes:
        """The sizes of the dictionary and the number of planted atoms."""
        return Sizes(self.spec.n_latents, self.spec.degree, self.spec.k)

    @property
    def title(self) -> str:
        """The experiment in a few words: `expander d=7 k=8 n=512 noise=0 s0`."""
        spec = self.spec
        sizes = f"d={spec.degree} k={spec.k} n={spec.n_latents}"
        return f"{spec.config.mask} {sizes} noise={spec.config.noise:g} s{spec.seed}"

    def lacking(self, record: Record) -> list[str]:
        """Return the measurements that a complete record does not have: none, as all are made at once."""
        return []
