"""Whether an LM reads from left to right. One that sees the tokens to come predicts nothing that an SAE could keep."""

from __future__ import annotations

import torch

from sweep.lm.errors import ModelError


def check_causal(stream: torch.Tensor, architecture: str) -> None:
    """Raise ModelError if the first half of two windows, which is the same tokens in both, has different activations.

    Rounding may differ between the windows, where a mixture of experts sorts their tokens into batches of other sizes.
    So what counts is the least change of any position, relative to its norm: a causal model's first position sees
    itself alone, and in a model that reads both ways no position is left as it was.

    Args:
        stream: the residual stream after the last block of the two windows of `probe_tokens` (2, length, d_model).
    """
    shared = stream[:, : stream.shape[1] // 2].float()
    change = (shared[0] - shared[1]).norm(dim=-1) / shared[0].norm(dim=-1)
    tolerance = 1e-4 if stream.dtype == torch.float32 else 1e-2
    if change.min() > tolerance:
        raise ModelError(
            f"architecture {architecture} is no causal LM: later tokens change the activations of earlier ones, by "
            f"{100 * change.min():.2g}% of their norm or more (BERT and its kind need is_decoder=true in their config)"
        )
