"""The measures of what an SAE preserves on held-out text: of its reconstruction, and with the LM in the loop.

The hook point is the place in the LM whose activations the SAE replaces: the residual stream after a block. Which
tokens are replaced, and which ones reconstruction is measured on, is the mask policy (`sweep.measures.positions`);
padding is neither. Every cross-entropy is a sum over the same predicted tokens divided by their number, those that
follow a token which is not replaced included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch

from sae_core.activity import Activity, activity_of
from sae_core.inference import infer_by, multiply_adds
from sae_core.metrics import ReconstructionSums, ce_recovered
from sae_core.sae import SAE
from sweep.lm.model import next_token_losses
from sweep.measures.baselines import Baselines
from sweep.measures.clean import CleanPass
from sweep.measures.config import EvaluationError

Tick = Callable[[int, int], None]  # called with (windows done, windows in all)
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # activations -> (codes, indices)


def measure_reading(
    sae: SAE, inference: str, clean: CleanPass, base: Baselines, tick: Tick = lambda done, total: None
) -> dict[str, dict[str, Any]]:
    """Measure `sae` with its codes found in the way `inference` (see `sae_core.inference`).

    Returns:
        {"metrics": those of `evaluate`, "cost": the cost of finding codes}. The cost has
        - multiply_adds: the counted number of multiply-adds for one token;
        - tokens_per_second: the speed measured on these windows, the first batch left out if there are others;
        - threads: the CPU threads at which that was measured.

    Raises:
        EvaluationError: a reconstruction or cross-entropy is not finite.
    """
    reader = infer_by(sae, inference)
    watch = _Stopwatch(reader)
    metrics = evaluate(reader, clean, base, tick, watch.encode)
    cost = {
        "multiply_adds": multiply_adds(reader),
        "tokens_per_second": watch.rate(),
        "threads": torch.get_num_threads(),
    }
    return {"metrics": metrics, "cost": cost}


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


@torch.inference_mode()
def held_out_codes(sae: SAE, clean: CleanPass) -> HeldOutCodes:
    """Find the codes of all held-out tokens that are measured, with the SAE's own encoder."""
    codes, indices, measured = [], [], []
    for batch in clean:
        inside = batch.chosen[batch.real]
        measured.append(inside.cpu())
        for found, part in zip((codes, indices), sae.encode(batch.h), strict=True):
            spread = part.new_zeros(len(inside), part.shape[1])
            spread[inside] = part
            found.append(spread.cpu())
    windows = clean.windows
    real = windows.mask()
    tokens, window = torch.from_numpy(windows.tokens[real]), torch.from_numpy(np.nonzero(real)[0])
    every, latents = torch.cat(codes), torch.cat(indices)
    activity = activity_of(every, latents, sae.dictionary.n_latents, tokens, window)
    return HeldOutCodes(latents, every, activity, torch.cat(measured))


class _Stopwatch:
    """Measures how long an SAE's encoder takes, a batch at a time."""

    def __init__(self, sae: SAE):
        self.sae, self._batches = sae, []

    def encode(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the SAE's (codes, indices) for `h` and note the time that this took."""
        _wait_for(h.device)
        started = time.perf_counter()
        found = self.sae.encode(h)
        _wait_for(h.device)
        self._batches.append((len(h), time.perf_counter() - started))
        return found

    def rate(self) -> int:
        """Return tokens per second. The first batch, which bears the set-up costs, counts only if there is no other."""
        counted = self._batches[1:] or self._batches
        return round(sum(tokens for tokens, _ in counted) / sum(seconds for _, seconds in counted))


def _wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work, which it does in the background."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def evaluate(
    sae: SAE, clean: CleanPass, base: Baselines, tick: Tick = lambda done, total: None, encode: Encode | None = None
) -> dict[str, Any]:
    """Return every measure of one SAE on the windows of `clean`, by the names that records and trackers use.

    The clean pass gives the activations, and the logits that the KL divergence refers to. In a second pass the SAE's
    reconstruction replaces the activations at the hook point.

    Args:
        base: the cross-entropies of the LM alone on the same windows.
        tick: called with (windows done, windows in all) after each batch.
        encode: a wrapper of `sae.encode` that is called in its place; None for the method itself.

    Raises:
        EvaluationError: a reconstruction or cross-entropy is not finite.
    """
    sums = ReconstructionSums(sae.dictionary.d_in, sae.dictionary.n_latents)
    ce_sum = kl_sum = 0.0
    real, others, done, total = 0, list[int | None](), 0, len(clean.windows.tokens)
    for batch in clean:
        h = batch.h
        codes, indices = (encode or sae.encode)(h)
        reconstruction = sae.decode(codes, indices)
        sums.add(h, reconstruction, codes, indices)
        replaced = batch.hidden.clone()
        replaced[batch.chosen] = reconstruction.to(replaced.dtype)
        logits = clean.lm.logits(batch.tokens, clean.layer, lambda _hidden, replaced=replaced: replaced)
        ce_sum += float(next_token_losses(logits, batch.tokens)[batch.predicted].double().sum())
        kl_sum += _kl_sum(batch.logits, logits, batch.predicted)
        real += int(batch.real.sum())
        others.append(batch.not_ordinary)
        done += len(batch.tokens)
        tick(done, total)
    metrics = {**sums.result()._asdict(), **_fidelity(ce_sum / base.predicted_tokens, base)}
    metrics["kl"] = kl_sum / base.predicted_tokens
    metrics["mask_policy"] = clean.positions.mask_policy
    metrics["not_ordinary_fraction"] = None if None in others else sum(o for o in others if o) / real
    for name, value in metrics.items():
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise EvaluationError(f"{name} is {value} on the held-out text")
    return metrics


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


def _kl_sum(clean: torch.Tensor, logits: torch.Tensor, predicted: torch.Tensor) -> float:
    """Return the sum over predicted positions of KL(clean || replaced) in nats."""
    log_p = clean[:, :-1][predicted].float().log_softmax(-1)
    log_q = logits[:, :-1][predicted].float().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).double().sum())
