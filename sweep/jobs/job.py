"""A run, ready to start."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sae_core.arms import Arm, DenseTied, Sizes
from sae_core.arms.base import DerivedArm
from sweep.corpus.documents import Corpus
from sweep.corpus.windows import WindowConfig
from sweep.jobs.spec import RunSpec
from sweep.lm.find import ModelConfig, ModelInfo
from sweep.measures.config import EvalConfig
from sweep.store.records import CONTEXTS, Record, run_folder, unmeasured
from sweep.tracking.wandb_tracker import TrackerConfig


@dataclass(frozen=True)
class Job:
    """One run, ready to start: its spec and what is needed to carry it out."""

    spec: RunSpec
    axes: dict[str, int]
    labels: dict[str, str]
    sizes: Sizes
    model: ModelConfig
    info: ModelInfo
    corpus: Corpus
    windows: WindowConfig
    tracker: TrackerConfig
    runs_dir: Path
    cache_dir: Path
    cache_local: Path | None  # a disk of the machine's own that activations are copied to
    device: str
    backend: str
    threads: int | None
    layers_together: tuple[int, ...]
    save_artifact: bool
    settings: dict[str, Any]  # the whole resolved config, for the tracker and for measuring again

    @property
    def title(self) -> str:
        """The cell in a few words: `expander d=7 k=32 n=2048 L2 s0`."""
        n, degree, k = self.sizes
        return f"{self.labels['arm']} d={degree} k={k} n={n} L{self.axes['layer']} s{self.axes['seed']}"

    def lacking(self, record: Record) -> list[str]:
        """The measurements asked for that a complete record lacks."""
        evaluation = self.spec.eval
        lacking = unmeasured(record, evaluation.inference)
        latents = record.get("latents", {})
        if evaluation.novelty and self.spec.arm.sparse_codes and "reference" not in latents.get("novelty", {}):
            lacking.append("novelty")
        written = (run_folder(self.runs_dir, self.spec.run_id) / CONTEXTS).exists()
        if evaluation.contexts > (latents.get("contexts", 0) if written else 0):
            lacking.append("contexts")
        return lacking

    @property
    def starts_from(self) -> Job | None:
        """The run whose SAE this one starts from."""
        arm = self.spec.arm
        return self.of(arm.starts_from) if isinstance(arm, DerivedArm) else None

    @property
    def reference(self) -> Job:
        """The run that its latents are compared with: dense_tied of the same layer, n and k, and another seed."""
        return self.of(DenseTied(self.axes["n"], self.axes["k"]), seed=1 if self.spec.seed == 0 else 0)

    def of(self, arm: Arm, seed: int | None = None) -> Job:
        """The run of another arm in the same cell, with no measurement beside its own encoder's."""
        seed = self.spec.seed if seed is None else seed
        evaluation = EvalConfig(self.spec.eval.windows)
        plain_eval = {"_target_": f"{EvalConfig.__module__}.{EvalConfig.__name__}", **asdict(evaluation)}
        return replace(
            self,
            spec=replace(self.spec, arm=arm, eval=evaluation, seed=seed),
            axes={**self.axes, "seed": seed},
            labels={**self.labels, "arm": arm.label},
            sizes=arm.sizes(self.info.d_model),
            settings={**self.settings, "sae": _arm_config(arm), "eval": plain_eval, "seed": seed},
        )


def _arm_config(arm: Arm) -> dict[str, Any]:
    """The config group that builds `arm`."""
    values = {field.name: getattr(arm, field.name) for field in fields(arm)}  # type: ignore[arg-type]
    plain = {key: _arm_config(value) if isinstance(value, Arm) else value for key, value in values.items()}
    return {"_target_": f"sae_core.arms.{type(arm).__name__}", **plain}
