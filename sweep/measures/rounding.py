"""What running the LM in a dtype of fewer bits changes of its cross-entropy."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from sweep.corpus.windows import Windows
from sweep.lm.losses import cross_entropies, log_normalisers
from sweep.lm.model import LM
from sweep.store.files import write_json
from sweep.store.hashes import short_hash


def float32_cross_entropy(lm: Callable[[], LM], windows: Windows, batch_size: int, cache: Path, key: str) -> float:
    """Return the cross-entropy of the LM in float32, in nats per predicted token: measured once, then read back.

    Args:
        lm: returns the LM in float32; called only if it must be measured.
        windows: the held-out set.
        batch_size: windows per forward pass of the LM.
        cache: the folder of remembered baselines.
        key: names the LM's weights.
    """
    file = cache / f"float32-{short_hash(key, windows.digest())}.json"
    with suppress(OSError, ValueError, KeyError):
        return json.loads(file.read_text())["ce_clean"]
    measured = _cross_entropy(lm(), windows, batch_size)
    with suppress(OSError):  # a full disk only costs the memory: it is measured again
        write_json(file, {"ce_clean": measured})
    return measured


@torch.inference_mode()
def _cross_entropy(lm: LM, windows: Windows, batch_size: int) -> float:
    total = count = 0.0
    for start in range(0, len(windows.tokens), batch_size):
        part = slice(start, start + batch_size)
        tokens = torch.from_numpy(windows.tokens[part]).to(lm.device)
        predicted = torch.from_numpy(windows.mask()[part, 1:]).to(lm.device)
        logits = lm.logits(tokens, 0, lambda _: None)
        total += float(cross_entropies(logits, tokens, log_normalisers(logits))[predicted].double().sum())
        count += int(predicted.sum())
    return total / count
