"""A stopwatch for an SAE's encoder: the tokens per second that a record states for each way of finding codes."""

from __future__ import annotations

import time

import torch

from sae_core.inference import multiply_adds
from sae_core.sae import SAE


class Stopwatch:
    """Measures how long an SAE's encoder takes, a batch at a time."""

    def __init__(self, sae: SAE):
        self.sae, self._batches = sae, list[tuple[int, float]]()

    def encode(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the SAE's (codes, indices) for `h` and note the time that this took."""
        _wait_for(h.device)
        started = time.perf_counter()
        found = self.sae.encode(h)
        _wait_for(h.device)
        self._batches.append((len(h), time.perf_counter() - started))
        return found

    def cost(self) -> dict[str, int]:
        """Return the cost of finding codes.

        Returns:
            multiply_adds      the counted number of multiply-adds for one token
            tokens_per_second  the speed measured on the batches, the first one left out if there are others, as it
                               bears the set-up costs
            threads            the CPU threads at which that was measured
        """
        counted = self._batches[1:] or self._batches
        rate = sum(tokens for tokens, _ in counted) / sum(seconds for _, seconds in counted)
        return {
            "multiply_adds": multiply_adds(self.sae),
            "tokens_per_second": round(rate),
            "threads": torch.get_num_threads(),
        }


def _wait_for(device: torch.device) -> None:
    """Wait until a GPU has finished its work, which it does in the background."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
