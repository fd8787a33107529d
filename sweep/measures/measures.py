"""What an SAE preserves: reconstruction and LM-in-the-loop measures on held-out text.

Mask policy "all_tokens": the hook point is replaced at every real token, BOS included, as the paper does; padding is
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

Tick = Callable[[int, int], None]  # windows done, windows in all
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class CleanPass:
    """The unchanged LM on held-out windows, a batch at a time: what every SAE of a layer is compared with.

    Batches are remembered, so that the next SAE needs one forward pass each instead of two, as long as all of them
    fit into KEPT_BYTES together (an LM with few windows or a small vocabulary).
    """

    KEPT_BYTES = 1 << 28

    def __init__(self, lm: LM, layer: int, windows: Windows, batch_size: int):
        self.lm, self.layer, self.windows, self.batch_size = lm, layer, windows, batch_size
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(hook point (windows, length, d_model), logits (windows, length, vocabulary)) from window `start` on."""
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
    sae: SAE, inference: str, clean: CleanPass, base: Baselines, tick: Tick = lambda d, n: None
) -> dict[str, dict[str, Any]]:
    """`sae` read by `inference` (see `sae_core.inference`): `metrics` as `evaluate` gives them, and `cost`:

    - multiply_adds: to find the codes of one token, counted;
    - tokens_per_second: of finding them, measured on these windows with `threads` CPU threads, the first batch apart.

    Raises:
        EvaluationError: as `evaluate`.
    """
    other = infer_by(sae, inference)
    watch = _Stopwatch(other)
    metrics = evaluate(other, clean, base, tick, watch.encode)
    cost = {
        "multiply_adds": multiply_adds(other),
        "tokens_per_second": watch.rate(),
        "threads": torch.get_num_threads(),
    }
    return {"metrics": metrics, "cost": cost}


@torch.inference_mode()
def all_codes(sae: SAE, clean: CleanPass) -> tuple[torch.Tensor, torch.Tensor, Activity]:
    """(codes, indices) of all held-out tokens in order, each (tokens, k), and who fired; all on the CPU."""
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
    """Times an SAE's encode, a batch at a time."""

    def __init__(self, sae: SAE):
        self.sae, self._batches = sae, []

    def encode(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _wait_for(h.device)
        started = time.perf_counter()
        found = self.sae.encode(h)
        _wait_for(h.device)
        self._batches.append((len(h), time.perf_counter() - started))
        return found

    def rate(self) -> int:
        """Tokens per second; the first batch, which pays for what is set up once, does not count beside others."""
        counted = self._batches[1:] or self._batches
        return round(sum(tokens for tokens, _ in counted) / sum(seconds for _, seconds in counted))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def evaluate(
    sae: SAE, clean: CleanPass, base: Baselines, tick: Tick = lambda d, n: None, encode: Encode | None = None
) -> dict[str, Any]:
    """Every measure of one SAE on `clean`'s windows, by the names that records and trackers use.

    Args:
        encode: the SAE's own, or the same watched.

    The clean pass gives the activations and the logits that the KL refers to; a second pass has the hook point
    replaced by the SAE's reconstruction.

    Raises:
        EvaluationError: a reconstruction or cross-entropy is not finite.
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
    for name, ablated in (("zero", base.ce_zero), ("mean", base.ce_mean)):
        if ablated == base.ce_clean:
            raise EvaluationError(f"{name} ablation leaves the LM's cross-entropy at {ablated}: nothing to recover")
    return {
        **asdict(base),
        "ce_sae": ce_sae,
        "delta_ce": ce_sae - base.ce_clean,
        "ce_recovered": ce_recovered(ce_sae, base.ce_clean, base.ce_zero),
        "ce_recovered_mean": ce_recovered(ce_sae, base.ce_clean, base.ce_mean),
    }


def _kl_sum(clean: torch.Tensor, logits: torch.Tensor, predicted: torch.Tensor) -> float:
    """sum over predicted positions of KL(clean || replaced) in nats."""
    log_p = clean[:, :-1][predicted].float().log_softmax(-1)
    log_q = logits[:, :-1][predicted].float().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).double().sum())
