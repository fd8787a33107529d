"""Cross-entropies of the LM alone: unchanged, and with the hook point replaced by zeros or by the mean activation."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sweep.corpus.windows import Windows
from sweep.lm.model import LM, next_token_losses
from sweep.store.files import write_json
from sweep.store.hashes import short_hash


@dataclass(frozen=True)
class Baselines:
    """Cross-entropies that do not depend on the SAE, in nats per predicted token."""

    ce_clean: float  # the LM unchanged
    ce_zero: float  # hook point replaced by zeros
    ce_mean: float  # hook point replaced by the training pool's mean activation
    predicted_tokens: int  # every real token but the first of each window


Edit = Callable[[torch.Tensor], torch.Tensor | None]  # activations -> those to go on with, or None for no change


def baselines(
    lm: Callable[[], LM], layer: int, windows: Windows, mean: torch.Tensor, batch_size: int, cache: Path, key: str
) -> Baselines:
    """Return the baselines of a layer: measured once per (model, layer, held-out set), then read back.

    Args:
        lm: returns the LM; called only if the baselines must be measured.
        windows: the held-out set.
        mean: float32 (d_in,), the mean activation that mean ablation puts in place of every activation.
        batch_size: windows per forward pass of the LM.
        cache: the folder of remembered baselines.
        key: names everything else that determines them (weights, dtype, ...).
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
    with suppress(OSError):  # a full disk only costs the memory: they are measured again
        write_json(file, asdict(measured))
    return measured


@torch.inference_mode()
def _cross_entropy(lm: LM, layer: int, windows: Windows, batch_size: int, edit: Edit) -> float:
    """Return the cross-entropy in nats per predicted token when `edit` replaces the hook point's activations."""
    total = count = 0.0
    for start in range(0, len(windows.tokens), batch_size):
        tokens, _, predicted = batch_of(windows, start, batch_size, lm.device)
        losses = next_token_losses(lm.logits(tokens, layer, edit), tokens)[predicted]
        total += float(losses.double().sum())
        count += losses.numel()
    return total / count


def batch_of(windows: Windows, start: int, size: int, device: torch.device):
    """Return one batch of windows, from window `start` on, as three tensors on `device`.

    Returns:
        (token ids (size, length), bool (size, length) of real tokens, bool (size, length - 1) of predicted positions);
        position t is predicted if token t + 1 is real.
    """
    tokens = torch.from_numpy(windows.tokens[start : start + size]).to(device)
    mask = torch.from_numpy(windows.mask()[start : start + size]).to(device)
    return tokens, mask, mask[:, 1:]
