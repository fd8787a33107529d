"""The settings that determine a run's result, as canonical JSON, and the run id hashed from it.

Paths, tracker, device, threads, checkpoints and names change no result, so they are not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
SEED_PARTS = {"seed_support": "support", "seed_values": "values", "seed_order": "order"}  # setting: what it draws


class Seeds(NamedTuple):
    """The seeds of a run, each of what it draws."""

    support: int | None  # the support that training starts from; None where the arm draws none
    values: int  # the initial values, or those of a frozen dictionary
    order: int  # the order of the data, and what training draws besides: tokens for dead latents and new supports


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines the result of one run.

    Args:
        activations: names the LM, the hook point and the text.
        arm: the kind of SAE with its sizes.
        train, eval: how it is trained and measured.
        seed: draws the support, the initial values and the order of the data.
        synthetic: the synthetic model that stands in the place of an LM; None for an LM.
        seed_support, seed_values, seed_order: the seed of one of the three, where it is another one; see `Seeds`. One
            that changes nothing becomes None, so that one run has one id: the same number as `seed`, or a seed of the
            support where the arm draws none.
    """

    activations: CacheKey
    arm: Arm
    train: TrainConfig
    eval: EvalConfig
    seed: int
    synthetic: SyntheticConfig | None = None
    seed_support: int | None = None
    seed_values: int | None = None
    seed_order: int | None = None
    run_id: str = field(init=False, repr=False, compare=False)  # 16 hex digits: the hash of all the rest

    def __post_init__(self):
        for name in SEED_PARTS:
            if getattr(self, name) == self.seed or (name == "seed_support" and not self.arm.draws_support):
                object.__setattr__(self, name, None)
        object.__setattr__(self, "run_id", short_hash(self.as_json()))

    @property
    def seeds(self) -> Seeds:
        """The seeds of the support, the values and the order, whichever setting they come from."""
        parts = (getattr(self, name) for name in SEED_PARTS)
        support, values, order = (self.seed if part is None else part for part in parts)
        return Seeds(support if self.arm.draws_support else None, values, order)

    @property
    def own_seeds(self) -> dict[str, int]:
        """The settings of SEED_PARTS that are not `seed`."""
        return {name: value for name in SEED_PARTS if (value := getattr(self, name)) is not None}

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
            **self.own_seeds,
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
