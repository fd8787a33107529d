"""The settings that determine a run's result, as canonical JSON, and the run id hashed from it.

Paths, tracker, device, threads, checkpoints and names change no result, so they are not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sae_core.arms import Arm
from sae_core.hashed import hashed_fields
from sweep.activations.cache import CacheKey
from sweep.measures.config import EvalConfig
from sweep.measures.positions import ALL_TOKENS, ORDINARY_TOKENS
from sweep.store.hashes import short_hash
from sweep.synthetic.config import SyntheticConfig
from sweep.train.config import TrainConfig

AXES = ("layer", "d", "k", "n", "seed")
HOOK = "resid_post"  # the residual stream after a block
SHUFFLE_SEED = 0  # shuffles the cached activations; the order of training data follows from the run's own seed


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines the result of one run.

    Args:
        activations: names the LM, the hook point and the text.
        arm: the kind of SAE with its sizes.
        train, eval: how it is trained and measured.
        seed: draws the support, the initial values and the order of the data.
        synthetic: the synthetic model that stands in the place of an LM; None for an LM.
    """

    activations: CacheKey
    arm: Arm
    train: TrainConfig
    eval: EvalConfig
    seed: int
    synthetic: SyntheticConfig | None = None
    run_id: str = field(init=False, repr=False, compare=False)  # 16 hex digits: the hash of all the rest

    def __post_init__(self):
        object.__setattr__(self, "run_id", short_hash(self.as_json()))

    @property
    def mask_policy(self) -> str:
        """The tokens that are replaced and measured (`sweep.measures.positions`): those that the SAE is trained on."""
        return ALL_TOKENS if self.activations.outlier_norm is None else ORDINARY_TOKENS

    def as_json(self) -> dict[str, Any]:
        """Return the spec as plain values, as records keep it. Fields that change no result are left out."""
        made_of = {} if self.synthetic is None else {"synthetic": hashed_fields(self.synthetic)}
        return {
            **made_of,
            "activations": hashed_fields(self.activations),
            "sae": _described(self.arm),
            "train": hashed_fields(self.train),
            "eval": {**hashed_fields(self.eval), "mask_policy": self.mask_policy},
            "seed": self.seed,
        }


def _described(arm: Arm) -> dict[str, Any]:
    """Return the arm's name and its fields, an arm inside it likewise."""
    return {"arm": arm.name, **hashed_fields(arm, _described)}


def whole_number(key: str, value: Any, least: int) -> int:
    """Return `value` as an int. Raise ValueError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{key}={value} must be a whole number of at least {least}")
    return value


def latents_from(n: Any, d_in: int) -> int:
    """Return `n` as a number of latents: a whole number, or "8m" for 8 * d_in. Raise ValueError for anything else."""
    if isinstance(n, str) and n.endswith("m") and n[:-1].isdigit():
        n = int(n[:-1]) * d_in
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n={n} must be a whole number of at least 1, or a multiple of d_model such as 8m")
    return n
