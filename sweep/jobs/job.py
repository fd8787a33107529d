"""A job is a run that is ready to start. `Job` trains an SAE; `RecoveryJob` runs a synthetic experiment."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sae_core.arms import Arm, DenseTied, Sizes
from sweep.corpus.documents import Corpus
from sweep.corpus.windows import WindowConfig
from sweep.jobs.recovery import RecoveryJob
from sweep.jobs.spec import AXES, SEED_PARTS, RunSpec
from sweep.lm.find import ModelConfig, ModelInfo
from sweep.measures.config import EvalConfig
from sweep.store.metric_names import PROBING
from sweep.store.records import CONTEXTS, Record, run_folder, unmeasured_inference
from sweep.synthetic.config import SyntheticConfig
from sweep.tracking.wandb_tracker import TrackerConfig
from sweep.train.config import TrainConfig

_TITLED = ("steps", "lr", "batch_size")  # settings of the training that a title has where they are not the defaults
_POOL = 200_000  # tokens of the usual training pool, the paper's


@dataclass(frozen=True)
class Job:
    """One run, ready to start: the spec that determines its result, and what is needed to carry it out.

    Args:
        spec: every setting that determines the result.
        settings: the whole resolved config, for the tracker and for measuring the run again later.
        launch: the name of the launch that the run is made in; it groups runs. Records call this label `sweep`.
        model, info: which LM to load, and what its config says; or the synthetic model in its place.
        corpus, windows: the text, and how it becomes token windows.
        cache_local: a folder on a disk of this machine's own that activations are copied to; None to read the cache.
        logits_bytes: the most bytes of the unchanged LM's held-out logits that are kept on disk.
        layers_together: every layer that the LM pass captures if it has to be made for this run.
        save_artifact: whether the tracker keeps the SAE as an artifact.
    """

    spec: RunSpec
    settings: dict[str, Any]
    launch: str
    model: ModelConfig | SyntheticConfig
    info: ModelInfo
    corpus: Corpus
    windows: WindowConfig
    tracker: TrackerConfig
    runs_dir: Path
    cache_dir: Path
    cache_local: Path | None
    logits_bytes: int
    device: str
    backend: str
    threads: int | None
    layers_together: tuple[int, ...]
    save_artifact: bool

    @property
    def axes(self) -> dict[str, int]:
        """The sweep's axes as they were asked for: layer, d, k, n and seed, and the seeds of single parts, if set."""
        return {**{axis: self.settings[axis] for axis in AXES}, **self.spec.own_seeds}

    @property
    def lm(self) -> ModelConfig:
        """The LM of a job that has one."""
        assert isinstance(self.model, ModelConfig)
        return self.model

    @property
    def sizes(self) -> Sizes:
        """The sizes that the arm builds on this LM."""
        return self.spec.arm.sizes(self.info.d_model)

    @property
    def labels(self) -> dict[str, str]:
        """The names by which people know the run's LM, text, arm and launch."""
        return {
            "model": self.model.label,
            "corpus": self.corpus.label,
            "arm": self.spec.arm.label,
            "sweep": self.launch,
        }

    @property
    def title(self) -> str:
        """The run in a few words: `expander d=7 k=32 n=2048 L2 s0`, and what it trains on where that is unusual."""
        n, degree, k = self.sizes
        sizes = f"{self.spec.arm.label} d={degree} k={k} n={n} L{self.axes['layer']} s{self.seeds_in_words}"
        return " ".join([sizes, *self._unusual])

    @property
    def _unusual(self) -> list[str]:
        """Those of the settings most often swept that differ from their defaults: `steps=1000`, `lr=0.001`."""
        usual, train, tokens = TrainConfig(), self.spec.train, self.spec.activations.tokens
        words = [f"{name}={value}" for name in _TITLED if (value := getattr(train, name)) != getattr(usual, name)]
        return [*words, *([f"tokens={tokens}"] if tokens != _POOL and self.spec.synthetic is None else [])]

    def compression(self, learned_decoder_values: int) -> str:
        """Return how many times fewer values the SAE learns than dense atoms at the n asked for; empty for no values.

        That is m/d for an expander, and n/n' for a dense_matched SAE, which has n' latents.
        """
        asked = self.info.d_model * self.axes["n"]
        return f"{asked / learned_decoder_values:.1f}x" if learned_decoder_values else ""

    @property
    def seeds_in_words(self) -> str:
        """The seed, and those of single parts: `0`, or `0 (support 1)`."""
        own = ", ".join(f"{SEED_PARTS[name]} {seed}" for name, seed in self.spec.own_seeds.items())
        return f"{self.spec.seed} ({own})" if own else str(self.spec.seed)

    def lacking(self, record: Record) -> list[str]:
        """Return the measurements that this job asks for and a complete record does not have."""
        evaluation = self.spec.eval
        lacking = unmeasured_inference(record, evaluation.inference)
        latents = record.get("latents", {})
        if evaluation.novelty and self.spec.arm.sparse_codes and "reference" not in latents.get("novelty", {}):
            lacking.append("novelty")
        written = (run_folder(self.runs_dir, self.spec.run_id) / CONTEXTS).exists()
        if evaluation.contexts > (latents.get("contexts", 0) if written else 0):
            lacking.append("contexts")
        return [*lacking, *(PROBING + family for family, readings in self.unprobed(record).items() if readings)]

    def unprobed(self, record: Record) -> dict[str, list[str]]:
        """Return {family of sets: the ways of reading that this job asks for and a record has no scores of}."""
        asked = self.spec.eval.inference if self.spec.arm.sparse_codes else ()
        there = record.get("probing", {})
        return {
            family: [name for name in asked if name not in there.get(family, {}).get("readings", {})]
            for family in self.spec.eval.probing
        }

    @property
    def starts_from(self) -> Job | None:
        """The run whose trained SAE this one starts from; None where the arm starts from fresh values."""
        start = self.spec.arm.starts_from
        return None if start is None else self.with_arm(start)

    @property
    def reference(self) -> Job:
        """The run that novelty compares latents with: dense_tied of the same layer, n and k, and of another seed."""
        return self.with_arm(DenseTied(self.axes["n"], self.axes["k"]), seed=1 if self.spec.seed == 0 else 0)

    def with_arm(self, arm: Arm, seed: int | None = None) -> Job:
        """Return the run of another arm at the same layer, d, k and n, measured with its own encoder alone.

        Args:
            seed: its seed, of all parts; None for the seeds of this run.
        """
        own = dict.fromkeys(SEED_PARTS) if seed is not None else {name: self.settings.get(name) for name in SEED_PARTS}
        seed = self.spec.seed if seed is None else seed
        evaluation = EvalConfig(self.spec.eval.windows, tokens=self.spec.eval.tokens)
        plain_eval = {"_target_": "sweep.measures.EvalConfig", **asdict(evaluation)}
        return replace(
            self,
            spec=replace(self.spec, arm=arm, eval=evaluation, seed=seed, **own),
            settings={**self.settings, "sae": _arm_config(arm), "eval": plain_eval, "seed": seed, **own},
        )


AnyJob = Job | RecoveryJob


def _arm_config(arm: Arm) -> dict[str, Any]:
    """Return the config group that builds `arm`."""
    values = {field.name: getattr(arm, field.name) for field in fields(arm)}  # type: ignore[arg-type]
    plain = {key: _arm_config(value) if isinstance(value, Arm) else value for key, value in values.items()}
    return {"_target_": f"sae_core.arms.{type(arm).__name__}", **plain}
