"""The measures of what an SAE preserves on held-out text: of its reconstruction, and with the LM in the loop.

The hook point is the place in the LM whose activations the SAE replaces: the residual stream after a block.
Mask policy "all_tokens": activations are replaced at every real token, BOS included, as the paper does; padding is
neither replaced nor measured. Every cross-entropy is a sum over the same predicted tokens divided by their number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from sae_core.activity import Activity, activity_of
from sae_core.inference import infer_by, multiply_adds
from sae_core.metrics import ReconstructionSums, ce_recovered
from sae_core.sae import SAE
from sweep.corpus.windows import Windows
from sweep.lm.model import LM, next_token_losses
from sweep.measures.baselines import Baselines, batch_of
from sweep.measures.config import MASK_POLICY, EvaluationError

Tick = Callable[[int, int], None]  # called with (windows done, windows in all)
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # activations -> (codes, indices)


class CleanPass:
    """The unchanged LM's pass over held-out windows, a batch at a time; every SAE of a layer is compared with it.

    If all batches together fit into KEPT_BYTES (for few windows or a small vocabulary), they are remembered: the next
    SAE then needs one forward pass per batch instead of two.
    """

    KEPT_BYTES = 1 << 28

    def __init__(self, lm: LM, layer: int, windows: Windows, batch_size: int):
        self.lm, self.layer, self.windows, self.batch_size = lm, layer, windows, batch_size
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the batch from window `start` on.

        Returns:
            (activations at the hook point (windows, length, d_model), logits (windows, length, vocabulary)).
        """
        if start in self._kept:
            return self._kept[start]
        seen: list[torch.Tensor] = []
        tokens = batch_of(self.windows, start, self.batch_size, self.lm.device)[0]
        logits = self.lm.logits(tokens, self.layer, lambda hidden: seen.append(hidden.clone()))
        batch = seen[0], logits
        if sum(t.nbytes for t in batch) * len(self.windows.tokens) <= self.KEPT_BYTES * len(tokens):
            self._kept[start] = batch
        return batch


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
        EvaluationError: a reconstruction or cross-entropy is not finite, or an ablation does not change the LM's.
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


@torch.inference_mode()
def held_out_codes(sae: SAE, clean: CleanPass) -> tuple[torch.Tensor, torch.Tensor, Activity]:
    """Find the codes of all held-out tokens with the SAE's own encoder.

    Returns:
        (codes, indices, activity), on the CPU: codes and indices (tokens, k) in the order of the text, and which
        latents fired on each token.
    """
    windows = clean.windows
    codes, indices = [], []
    for start in range(0, len(windows.tokens), clean.batch_size):
        mask = batch_of(windows, start, clean.batch_size, clean.lm.device)[1]
        for found, part in zip((codes, indices), sae.encode(clean(start)[0][mask].float()), strict=True):
            found.append(part.cpu())
    real = windows.mask()
    tokens = torch.from_numpy(windows.tokens[real])
    window = torch.from_numpy(np.nonzero(real)[0])
    every, latents = torch.cat(codes), torch.cat(indices)
    return every, latents, activity_of(every, latents, sae.dictionary.n_latents, tokens, window)


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
        EvaluationError: a reconstruction or cross-entropy is not finite, or an ablation does not change the LM's.
    """
    lm, layer, windows, batch_size = clean.lm, clean.layer, clean.windows, clean.batch_size
    sums = ReconstructionSums(sae.dictionary.d_in, sae.dictionary.n_latents)
    ce_sum = kl_sum = 0.0
    for start in range(0, len(windows.tokens), batch_size):
        tokens, mask, predicted = batch_of(windows, start, batch_size, lm.device)
        hidden, clean_logits = clean(start)
        h = hidden[mask].float()
        codes, indices = (encode or sae.encode)(h)
        reconstruction = sae.decode(codes, indices)
        sums.add(h, reconstruction, codes, indices)
        replaced = hidden.clone()
        replaced[mask] = reconstruction.to(hidden.dtype)
        logits = lm.logits(tokens, layer, lambda _hidden, replaced=replaced: replaced)
        ce_sum += float(next_token_losses(logits, tokens)[predicted].double().sum())
        kl_sum += _kl_sum(clean_logits, logits, predicted)
        tick(min(start + batch_size, len(windows.tokens)), len(windows.tokens))
    metrics = {**sums.result()._asdict(), **_fidelity(ce_sum / base.predicted_tokens, base)}
    metrics["kl"] = kl_sum / base.predicted_tokens
    metrics["mask_policy"] = MASK_POLICY
    for name, value in metrics.items():
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise EvaluationError(f"{name} is {value} on the held-out text")
    return metrics


def _fidelity(ce_sae: float, base: Baselines) -> dict[str, Any]:
    """Return the cross-entropies, and the measures that compare the SAE's with the others."""
    for name, ablated in (("zero", base.ce_zero), ("mean", base.ce_mean)):
        if ablated == base.ce_clean:
            raise EvaluationError(
                f"{name} ablation leaves the LM's cross-entropy unchanged at {ablated}: there is nothing to recover"
            )
    return {
        **asdict(base),
        "ce_sae": ce_sae,
        "delta_ce": ce_sae - base.ce_clean,
        "ce_recovered": ce_recovered(ce_sae, base.ce_clean, base.ce_zero),
        "ce_recovered_mean": ce_recovered(ce_sae, base.ce_clean, base.ce_mean),
    }


def _kl_sum(clean: torch.Tensor, logits: torch.Tensor, predicted: torch.Tensor) -> float:
    """Return the sum over predicted positions of KL(clean || replaced) in nats."""
    log_p = clean[:, :-1][predicted].float().log_softmax(-1)
    log_q = logits[:, :-1][predicted].float().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).double().sum())
