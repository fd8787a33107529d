"""The settings of the measures, and the error that they raise."""

from __future__ import annotations

from dataclasses import dataclass

from sae_core.inference import ENCODER, inference_name
from sweep.corpus.documents import CorpusError

MASK_POLICY = "all_tokens"


class EvaluationError(ValueError):
    """A measurement is undefined: the LM or the SAE gives values that are not finite, or an ablation costs nothing."""


@dataclass(frozen=True)
class EvalConfig:
    """What is measured.

    Args:
        windows: held-out windows measured, each of model.window tokens.
        inference: ways to read codes that are measured, by the names of `sae_core.inference`; `encoder`, the SAE's own,
            always is. They change no result of another, so they are no part of the run's id, and a finished run can be
            measured in further ways without training again. So it is with the next two.
        novelty: compare the latents with those of the dense_tied SAE of the same layer, n and k, trained where it is
            not there yet; of seed 0, or of seed 1 for SAEs of seed 0.
        contexts: strongest held-out contexts of each latent that are written to the run's folder; 0 for no file.
    """

    windows: int = 100
    inference: tuple[str, ...] = (ENCODER,)
    novelty: bool = False
    contexts: int = 0

    def __post_init__(self):
        if self.windows < 1:
            raise CorpusError(f"eval.windows={self.windows} must be at least 1")
        if self.contexts < 0:
            raise ValueError(f"eval.contexts={self.contexts} must be at least 0")
        try:
            names = [ENCODER, *(inference_name(name) for name in self.inference)]
        except ValueError as error:
            raise ValueError(f"eval.inference={list(self.inference)}: {error}") from None
        object.__setattr__(self, "inference", tuple(dict.fromkeys(names)))
