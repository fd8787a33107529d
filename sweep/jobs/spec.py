"""RunSpec: what determines a run's result, as canonical JSON, and the run id hashed from it.

Paths, tracker, device, threads, checkpoints and names are not in it: they change no result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from sae_core.arms import Arm
from sweep.activations.cache import CacheKey
from sweep.measures.config import MASK_POLICY, EvalConfig
from sweep.store.hashes import short_hash
from sweep.train.config import TrainConfig

AXES = ("layer", "d", "k", "n", "seed")
HOOK = "resid_post"  # the residual stream after a block
SHUFFLE_SEED = 0  # of the cached pool; the order of training data is the run's own seed's


@dataclass(frozen=True)
class RunSpec:
    """One run. `activations` names the LM, the hook point and the text; the rest is the SAE's."""

    activations: CacheKey
    arm: Arm
    train: TrainConfig
    eval: EvalConfig
    seed: int
    run_id: str = field(init=False, repr=False, compare=False)  # hash of the spec

    def __post_init__(self):
        object.__setattr__(self, "run_id", short_hash(self.as_json()))

    def as_json(self) -> dict[str, Any]:
        train = asdict(self.train)
        del train["checkpoint_every"]  # changes no result
        return {
            "activations": asdict(self.activations),
            "sae": _described(self.arm),
            "train": train,
            "eval": {"windows": self.eval.windows, "mask_policy": MASK_POLICY},  # what else is measured changes nothing
            "seed": self.seed,
        }


def _described(arm: Arm) -> dict[str, Any]:
    """Name and fields; less those that came later and are at their default, so that older runs keep their id."""
    values = {field.name: getattr(arm, field.name) for field in fields(arm) if not _as_before(field, arm)}  # type: ignore[arg-type]
    plain = {key: _described(value) if isinstance(value, Arm) else value for key, value in values.items()}
    return {"arm": arm.name, **plain}


def _as_before(field: Any, arm: Arm) -> bool:
    return bool(field.metadata.get("later")) and getattr(arm, field.name) == field.default


def whole_number(key: str, value: Any, least: int) -> int:
    """`value` as an int. Raises ValueError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{key}={value} must be a whole number of at least {least}")
    return value


def latents_from(n: Any, d_in: int) -> int:
    """`n` as a count: a whole number, or "8m" for 8 * d_in. Raises ValueError for anything else."""
    if isinstance(n, str) and n.endswith("m") and n[:-1].isdigit():
        n = int(n[:-1]) * d_in
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n={n} must be a whole number of at least 1, or a multiple of d_model such as 8m")
    return n
