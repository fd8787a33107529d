"""What an SAE preserves: reconstruction and LM-in-the-loop measures on held-out text.

Mask policy "all_tokens": the hook point is replaced at every real token, BOS included, as the paper does; padding is
neither replaced nor measured. Every cross-entropy is a sum over the same predicted tokens divided by their number.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sae_core.metrics import ReconstructionSums, ce_recovered
from sae_core.sae import SAE
from sweep.corpus import CorpusError
from sweep.lm import LM, next_token_losses
from sweep.memo import short_hash, write_json
from sweep.windows import Windows

MASK_POLICY = "all_tokens"


class EvaluationError(ValueError):
    """A measurement is undefined: the LM or the SAE gives values that are not finite, or an ablation costs nothing."""


@dataclass(frozen=True)
class EvalConfig:
    """Args: windows: held-out windows measured, each of model.window tokens."""

    windows: int = 100

    def __post_init__(self):
        if self.windows < 1:
            raise CorpusError(f"eval.windows={self.windows} must be at least 1")


@dataclass(frozen=True)
class Baselines:
    """Cross-entropies that do not depend on the SAE, in nats per token."""

    ce_clean: float
    ce_zero: float  # hook point replaced by zeros
    ce_mean: float  # hook point replaced by the training pool's mean activation
    predicted_tokens: int


Edit = Callable[[torch.Tensor], torch.Tensor | None]
Tick = Callable[[int, int], None]  # windows done, windows in all


def baselines(
    lm: Callable[[], LM], layer: int, windows: Windows, mean: torch.Tensor, batch_size: int, cache: Path, key: str
) -> Baselines:
    """Measure the baselines, or read them back: once per (model, layer, held-out set).

    Args:
        lm: gives the LM; called only when they must be measured.
        mean: float32 (d_in,).
        cache: folder of remembered baselines; `key` names what else determines them (weights, dtype, ...).
    """
    file = cache / f"{short_hash(key, layer, windows.digest(), mean.tolist())}.json"
    try:
        return Baselines(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    model = lm()
    mean = mean.to(model.device)
    measured = Baselines(
        ce_clean=_cross_entropy(model, layer, windows, batch_size, lambda h: None),
        ce_zero=_cross_entropy(model, layer, windows, batch_size, torch.zeros_like),
        ce_mean=_cross_entropy(model, layer, windows, batch_size, lambda h: mean.expand_as(h)),
        predicted_tokens=int((windows.lengths - 1).sum()),
    )
    write_json(file, asdict(measured))
    return measured


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
        tokens = _batch(self.windows, start, self.batch_size, self.lm.device)[0]
        logits = self.lm.logits(tokens, self.layer, lambda hidden: seen.append(hidden.clone()))
        batch = seen[0], logits
        if sum(t.nbytes for t in batch) * len(self.windows.tokens) <= self.KEPT_BYTES * len(tokens):
            self._kept[start] = batch
        return batch


@torch.inference_mode()
def evaluate(sae: SAE, clean: CleanPass, base: Baselines, tick: Tick = lambda d, n: None) -> dict[str, Any]:
    """Every measure of one SAE on `clean`'s windows, by the names that records and trackers use.

    The clean pass gives the activations and the logits that the KL refers to; a second pass has the hook point
    replaced by the SAE's reconstruction.

    Raises:
        EvaluationError: a reconstruction or cross-entropy is not finite.
    """
    lm, layer, windows, batch_size = clean.lm, clean.layer, clean.windows, clean.batch_size
    sums = ReconstructionSums(sae.dictionary.d_in, sae.dictionary.n_latents)
    ce_sum = kl_sum = 0.0
    for start in range(0, len(windows.tokens), batch_size):
        tokens, mask, predicted = _batch(windows, start, batch_size, lm.device)
        hidden, clean_logits = clean(start)
        h = hidden[mask].float()
        output = sae(h)
        sums.add(h, output.reconstruction, output.codes, output.indices)
        replaced = hidden.clone()
        replaced[mask] = output.reconstruction.to(hidden.dtype)
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


@torch.inference_mode()
def _cross_entropy(lm: LM, layer: int, windows: Windows, batch_size: int, edit: Edit) -> float:
    total = count = 0.0
    for start in range(0, len(windows.tokens), batch_size):
        tokens, _, predicted = _batch(windows, start, batch_size, lm.device)
        losses = next_token_losses(lm.logits(tokens, layer, edit), tokens)[predicted]
        total += float(losses.double().sum())
        count += losses.numel()
    return total / count


def _batch(windows: Windows, start: int, size: int, device: torch.device):
    """(tokens, mask of real tokens, mask of predicted positions (windows, length - 1)) of one batch."""
    tokens = torch.from_numpy(windows.tokens[start : start + size]).to(device)
    mask = torch.from_numpy(windows.mask()[start : start + size]).to(device)
    return tokens, mask, mask[:, 1:]


def _kl_sum(clean: torch.Tensor, logits: torch.Tensor, predicted: torch.Tensor) -> float:
    """sum over predicted positions of KL(clean || replaced) in nats."""
    log_p = clean[:, :-1][predicted].float().log_softmax(-1)
    log_q = logits[:, :-1][predicted].float().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).double().sum())
