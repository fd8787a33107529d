"""The measures of what an SAE preserves on held-out text: of its reconstruction, and with the LM in the loop.

The hook point is the place in the LM whose activations the SAE replaces: the residual stream after a block. Which
tokens are replaced, and which ones reconstruction is measured on, is the mask policy (`sweep.measures.positions`);
padding is neither. Every cross-entropy is a sum over the same predicted tokens divided by their number, those that
follow a token which is not replaced included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch

from sae_core.activity import Activity, activity_of
from sae_core.encoders import joined
from sae_core.inference import infer_by
from sae_core.metrics import ReconstructionSums, ce_recovered
from sae_core.sae import SAE
from sae_core.stability import ReadTokens
from sweep.lm.losses import cross_entropies, kl_divergences, log_normalisers
from sweep.measures.baselines import Baselines
from sweep.measures.clean import CleanBatch, CleanPass
from sweep.measures.config import EvaluationError
from sweep.measures.stopwatch import Stopwatch

Tick = Callable[[int, int], None]  # called with (windows done, windows in all)


class Reading:
    """One SAE with its codes found in one way, and what is measured of it.

    Args:
        inference: the way of finding codes (see `sae_core.inference`).
        base: the cross-entropies of the LM alone on the same windows.
        mask_policy: which tokens are replaced, in the words of records.
    """

    def __init__(self, sae: SAE, inference: str, base: Baselines, mask_policy: str):
        self.inference = inference
        self._reader, self._base, self._mask_policy = infer_by(sae, inference), base, mask_policy
        self._watch = Stopwatch(self._reader)
        self._sums = ReconstructionSums(sae.dictionary.d_in, sae.n_latents)
        self._ce = self._kl = 0.0
        self._real, self._not_ordinary = 0, list[int | None]()
        self._error: Exception | None = None

    def add(self, batch: CleanBatch) -> None:
        """Measure one more batch. An error ends the measurement, and is kept for `result`."""
        if self._error is None:
            try:
                self._add(batch)
            except (EvaluationError, IndexError, RuntimeError) as error:
                self._error = error

    def _add(self, batch: CleanBatch) -> None:
        h = batch.h
        codes, indices = self._watch.encode(h)
        reconstruction = self._reader.decode(codes, indices)
        self._sums.add(h, reconstruction, codes, indices)
        logits = batch.logits_with(batch.replaced(reconstruction))
        normalisers = log_normalisers(logits)
        losses = cross_entropies(logits, batch.tokens, normalisers)
        divergences = kl_divergences(batch.clean.logits, batch.clean.normalisers, logits, normalisers)
        self._ce += float(losses[batch.predicted].double().sum())
        self._kl += float(divergences[batch.predicted].double().sum())
        self._real += int(batch.real.sum())
        self._not_ordinary.append(batch.not_ordinary)

    def result(self) -> dict[str, dict[str, Any]]:
        """Return what was measured.

        Returns:
            {"metrics": every measure by the name that records and trackers use, "cost": see `Stopwatch.cost`}.

        Raises:
            EvaluationError: a reconstruction or cross-entropy is not finite.
            Exception: the error that ended the measurement.
        """
        if self._error is not None:
            raise self._error
        return {"metrics": self._metrics(), "cost": self._watch.cost()}

    def _metrics(self) -> dict[str, Any]:
        base, others = self._base, self._not_ordinary
        metrics = {**self._sums.result()._asdict(), **_fidelity(self._ce / base.predicted_tokens, base)}
        metrics["kl"] = self._kl / base.predicted_tokens
        metrics["mask_policy"] = self._mask_policy
        metrics["not_ordinary_fraction"] = None if None in others else sum(o for o in others if o) / self._real
        for name, value in metrics.items():
            if isinstance(value, float) and not abs(value) < float("inf"):
                raise EvaluationError(f"{name} is {value} on the held-out text")
        return metrics


class ReadingRequest(NamedTuple):
    """Readings of one SAE that are to be measured, and who wants to know how far that is."""

    readings: list[Reading]
    tick: Tick


@torch.inference_mode()
def measure_together(clean: CleanPass, requests: Sequence[ReadingRequest]) -> None:
    """Measure all readings, a batch of windows at a time, so that each batch's clean logits serve them all.

    The clean LM gives the activations, and the logits that the KL divergence refers to. Then each reading's
    reconstruction replaces the activations at the hook point, and the blocks above run once more.
    """
    done, total = 0, len(clean.windows.tokens)
    for batch in clean:
        for request in requests:
            for reading in request.readings:
                reading.add(batch)
        done += len(batch.tokens)
        for request in requests:
            request.tick(done, total)


class HeldOutCodes(NamedTuple):
    """The codes of all held-out tokens, on the CPU, in the order of the text.

    On tokens that are not measured nothing fires; they are there because contexts show them.
    """

    indices: torch.Tensor  # int64 (tokens, k), the latents of the codes; they mean nothing on tokens not measured
    codes: torch.Tensor  # (tokens, k)
    activity: Activity  # which latents fired on each token
    measured: torch.Tensor  # bool (tokens,)

    @property
    def measured_activity(self) -> Activity:
        """The same activity without the tokens that are not measured."""
        return self.activity.part(self.measured)

    @property
    def read(self) -> ReadTokens:
        """The codes of the tokens that are measured."""
        return ReadTokens(self.codes[self.measured], self.indices[self.measured], self.activity.windows[self.measured])


@torch.inference_mode()
def held_out_codes(sae: SAE, clean: CleanPass) -> HeldOutCodes:
    """Find the codes of all held-out tokens that are measured, with the SAE's own encoder."""
    parts, measured = [], []
    for batch in clean:
        inside = batch.chosen[batch.real]
        measured.append(inside.cpu())
        codes, indices = (_spread(part, inside).cpu() for part in sae.encode(batch.h))
        parts.append((codes, indices))
    windows = clean.windows
    real = windows.mask()
    tokens, window = torch.from_numpy(windows.tokens[real]), torch.from_numpy(np.nonzero(real)[0])
    every, latents = joined(parts)
    activity = activity_of(every, latents, sae.n_latents, tokens, window)
    return HeldOutCodes(latents, every, activity, torch.cat(measured))


def _spread(part: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return the rows of `part` where `inside` (tokens,) is True, and zeros elsewhere: (tokens, columns)."""
    spread = part.new_zeros(len(inside), part.shape[1])
    spread[inside] = part
    return spread


def _fidelity(ce_sae: float, base: Baselines) -> dict[str, Any]:
    """Return the cross-entropies, and the measures that compare the SAE's with the others, None where undefined."""
    zero = ce_recovered(ce_sae, base.ce_clean, base.ce_zero) if base.costs("zero") else None
    mean = ce_recovered(ce_sae, base.ce_clean, base.ce_mean) if base.costs("mean") else None
    return {
        **asdict(base),
        "ce_sae": ce_sae,
        "delta_ce": ce_sae - base.ce_clean,
        "ce_recovered": zero,
        "ce_recovered_mean": mean,
    }
