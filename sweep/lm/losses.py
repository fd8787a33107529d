"""Cross-entropy and KL divergence of logits, a few rows at a time, so that nothing of the logits' size is copied."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Values of logits that are worked on at once: a few megabytes, which stay in a CPU's cache; a GPU wants more.
_ON_CPU, _ON_GPU = 1 << 20, 1 << 27


def log_normalisers(logits: Tensor) -> Tensor:
    """Return log sum exp of the logits (windows, length, vocabulary) but for each window's last: (windows, length - 1).

    It is computed in float32.
    """
    found = logits.new_empty(logits.shape[0], logits.shape[1] - 1, dtype=torch.float32)
    for at in _chunks(logits):
        found[at] = logits[at].float().logsumexp(-1)
    return found


def cross_entropies(logits: Tensor, tokens: Tensor, normalisers: Tensor) -> Tensor:
    """Return the cross-entropy of each next token in nats: (windows, length - 1).

    Args:
        logits: (windows, length, vocabulary); the logits at position t predict tokens[:, t + 1].
        tokens: token ids (windows, length).
        normalisers: those of the logits, (windows, length - 1).
    """
    return normalisers - logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].float()


def kl_divergences(clean: Tensor, clean_normalisers: Tensor, logits: Tensor, normalisers: Tensor) -> Tensor:
    """Return KL(p || q) at each position in nats: (windows, length - 1).

    With clean logits a and other logits b it is sum p (a - b) - (log sum exp a - log sum exp b), p = softmax(a).

    Args:
        clean, logits: of p and of q (windows, length, vocabulary).
        clean_normalisers, normalisers: theirs (windows, length - 1).
    """
    found = torch.empty_like(normalisers)
    for at in _chunks(logits):
        a, b = clean[at].float(), logits[at].float()
        p = (a - clean_normalisers[at][..., None]).exp_()
        found[at] = (p * (a - b)).sum(-1)
    return found - (clean_normalisers - normalisers)


def _chunks(logits: Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield (windows, positions) of a few logits at a time; no window's last position is among them."""
    windows, length, vocabulary = logits.shape
    rows = max(1, (_ON_GPU if logits.device.type == "cuda" else _ON_CPU) // vocabulary)
    several = max(1, rows // max(1, length - 1))
    for first in range(0, windows, several):
        for position in range(0, length - 1, rows):
            yield slice(first, first + several), slice(position, min(position + rows, length - 1))
