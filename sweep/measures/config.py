"""The settings of the measurements, and the error that they raise."""

from __future__ import annotations

from dataclasses import dataclass

from sae_core.hashed import changes_no_result
from sae_core.inference import ENCODER, inference_name
from sweep.corpus.documents import CorpusError

TOKENS = ("ordinary", "all")
PROBED = ("code", "texts", "texts_last")  # families of sets to probe, see `sweep.probing.sets`


class EvaluationError(ValueError):
    """A measurement is undefined: the LM or the SAE gives values that are not finite."""


@dataclass(frozen=True)
class EvalConfig:
    """The settings that say what is measured on the held-out text.

    `tokens` is no part of the id by its own name: the key of the activations and the mask policy say the same.
    `inference`, `novelty`, `contexts` and `probing` only add measurements and change no other result. They are no part
    of the run's id, and they can be added to a finished run without training again.

    Args:
        windows: the number of held-out windows, each of model.window tokens.
        inference: the ways of finding codes that are measured, by the names of `sae_core.inference`; `encoder`, the
            SAE's own, always is.
        novelty: compare the latents with those of the dense_tied SAE of the same layer, n and k, which is trained if it
            is not there yet. Its seed is 0, or 1 for SAEs of seed 0.
        contexts: how many of each latent's strongest held-out contexts are written to the run's folder; 0 for no file.
        probing: families of labelled sets that a few latents are to tell: "code" (tokens of Python), "texts" (those of
            the package sae-probes, told by the mean of the codes over a text), "texts_last" (the same texts, told by
            the codes of the last token).
        tokens: which tokens the SAE is trained on, replaces and is measured on: "ordinary" ones, by the factor
            model.outlier_norm (`sweep.lm.ordinary`), or "all", as the paper does.

    Raises:
        CorpusError: there are fewer than 1 windows.
        ValueError: `tokens` is neither, an inference or a family is unknown, or `contexts` is below 0.
    """

    windows: int = 100
    inference: tuple[str, ...] = changes_no_result((ENCODER,))
    novelty: bool = changes_no_result(False)
    contexts: int = changes_no_result(0)
    tokens: str = changes_no_result("ordinary")
    probing: tuple[str, ...] = changes_no_result(())

    def __post_init__(self):
        if self.windows < 1:
            raise CorpusError(f"eval.windows={self.windows} must be at least 1")
        if self.tokens not in TOKENS:
            raise ValueError(f"eval.tokens={self.tokens} must be one of {', '.join(TOKENS)}")
        if self.contexts < 0:
            raise ValueError(f"eval.contexts={self.contexts} must be at least 0")
        for name in self.probing:
            if name not in PROBED:
                raise ValueError(f"eval.probing={list(self.probing)}: {name} is none of {', '.join(PROBED)}")
        object.__setattr__(self, "probing", tuple(dict.fromkeys(self.probing)))
        try:
            names = [ENCODER, *(inference_name(name) for name in self.inference)]
        except ValueError as error:
            raise ValueError(f"eval.inference={list(self.inference)}: {error}") from None
        object.__setattr__(self, "inference", tuple(dict.fromkeys(names)))
