"""Choose the dtype that an LM is run in by what this machine multiplies faster."""

from __future__ import annotations

import json
import platform
import time
from contextlib import suppress
from pathlib import Path

import torch

from sae_core.kernels.private_names import onednn_linear
from sweep.store.files import write_json
from sweep.store.hashes import short_hash

FLOAT32, BFLOAT16 = "float32", "bfloat16"
_WORTH_IT = 1.2  # how many times as fast bfloat16 must be, as it rounds more
_ROUNDS = 7


def fitting_dtype(device: torch.device, width: int, cache_dir: Path) -> str:
    """Return "bfloat16" on a GPU and on a CPU that multiplies it faster than float32, else "float32".

    A CPU is timed on a product of an LM's size, for a fraction of a second. The answer is remembered in the cache for
    this machine, so that every launch on it gives the same.

    Args:
        width: the LM's d_model.
        cache_dir: the cache's folder.
    """
    if device.type == "cuda":
        return BFLOAT16 if torch.cuda.is_bf16_supported() else FLOAT32
    name = short_hash(platform.node(), platform.machine(), torch.__version__, width)
    memo = cache_dir / "models" / f"dtype-{name}.json"
    with suppress(OSError, ValueError, KeyError):
        return json.loads(memo.read_text())["dtype"]
    speedup = bfloat16_speedup(width)
    found = BFLOAT16 if speedup > _WORTH_IT else FLOAT32
    with suppress(OSError):  # a full disk only costs the memory
        write_json(memo, {"dtype": found, "bfloat16_speedup": round(speedup, 2)})
    return found


def bfloat16_speedup(width: int) -> float:
    """Return how many times as fast as in float32 the CPU multiplies (512, width) by (width, 4 width) in bfloat16."""
    x, weight = torch.randn(512, width), torch.randn(4 * width, width)
    pairs = {dtype: (x.to(dtype), weight.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(pairs, float("inf"))
    for _ in range(_ROUNDS):  # in turn, so that what else the machine does meets both
        for dtype, (a, b) in pairs.items():
            started = time.perf_counter()
            onednn_linear(a, b, None)  # as the LM's layers multiply
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.float32] / best[torch.bfloat16]
