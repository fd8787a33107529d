"""Training steps replayed from a CUDA graph beside steps launched kernel by kernel, and the GPU's pursuits by way.

Times are milliseconds on one GPU, medians of Triton's `do_bench`, in float32 on random data. Where they are launched
kernel by kernel, steps of small batches take as long as the host does.

    python -m tests.benchmarks.gpu

It prints two tables; tests/benchmarks/results/gpu.md holds those of an H100.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sae_core.arms import DenseTied, Expander
from sae_core.kernels.dispatch import BACKENDS
from sae_core.kernels.gpu_greedy import pursue
from sae_core.supports import expander_support
from sweep.train.loop import train_step
from sweep.train.recorded import RecordedGradients
from tests.benchmarks.kernels import machine

STEPS = [  # (tokens, d_in, n_latents, degree or None for dense atoms, k)
    (256, 256, 2048, 7, 32),
    (256, 256, 2048, 30, 32),
    (256, 256, 2048, None, 32),
    (256, 576, 4608, 7, 32),
    (256, 2048, 16384, 7, 64),
    (1024, 256, 2048, 7, 32),
    (8192, 512, 4096, 7, 64),
    (8192, 2048, 16384, 7, 64),
]
PURSUITS = [(8192, 512, 4096, d, 64) for d in (7, 15, 30, 102)] + [(8192, 2048, 16384, d, 64) for d in (7, 15, 30, 102)]
WARM = 5  # calls that are not timed: they compile kernels and record the graph

Shape = tuple[int, int, int, int | None, int]


def milliseconds(call: Callable[[], object]) -> float:
    """Return the median milliseconds of `call`, by CUDA events, with an empty cache before each."""
    from triton.testing import do_bench

    for _ in range(WARM):
        call()
    median = do_bench(call, return_mode="median")
    assert isinstance(median, float)
    return median


def step(shape: Shape, encoder: str, replayed: bool) -> float:
    """Return the milliseconds of a training step by `encoder`."""
    tokens, d_in, n, degree, k = shape
    arm = DenseTied(n, k, encoder) if degree is None else Expander(n, degree, k, encoder)
    sae, h = arm.build(d_in, seed=0).to("cuda"), torch.randn(tokens, d_in, device="cuda")
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)
    recorded = RecordedGradients(sae) if replayed else None
    return milliseconds(lambda: train_step(sae, optimizer, h, 1e-3, 1.0, recorded))


def pursuit(shape: Shape) -> tuple[float, float, float]:
    """Return the milliseconds of matching pursuit by changes, by rows, and of least squares on its picks."""
    tokens, d_in, n, degree, k = shape
    assert degree is not None
    x = torch.randn(tokens, d_in, device="cuda")
    values: Tensor = F.normalize(torch.randn(n, degree, device="cuda"), dim=1)
    support = expander_support(d_in, n, degree, 0).to("cuda")
    ways = [
        milliseconds(lambda way=way: pursue(way, x, values, support, k, True, False)) for way in ("changes", "rows")
    ]
    _, picks = pursue("rows", x, values, support, k, True, False)
    return ways[0], ways[1], milliseconds(lambda: BACKENDS["gpu"].refit(x, picks, values, support))


def _sizes(shape: Shape) -> str:
    tokens, d_in, n, degree, k = shape
    return f"{tokens} tokens, m={d_in}, n={n}, {'dense' if degree is None else f'd={degree}'}, k={k}"


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device")
    print(machine("cuda"), "\n")
    print("| ms a training step | one-shot | replayed | mp_refit | replayed |\n|---|---|---|---|---|")
    for shape in STEPS:
        times = [step(shape, encoder, replayed) for encoder in ("topk", "mp_refit") for replayed in (False, True)]
        print(f"| {_sizes(shape)} | {' | '.join(f'{ms:.3f}' for ms in times)} |", flush=True)
    print("\n| ms | matching pursuit by changes | by rows | least squares |\n|---|---|---|---|")
    for shape in PURSUITS:
        print(f"| {_sizes(shape)} | {' | '.join(f'{ms:.2f}' for ms in pursuit(shape))} |", flush=True)


if __name__ == "__main__":
    main()
