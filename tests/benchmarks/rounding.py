"""Time training steps whose values are rounded beside plain ones, and write the table of results.

    python -m tests.benchmarks.rounding

Steps of 256 tokens on one thread, n=2048, m=256, k=32. The steps of all SAEs of a row take turns, and the time is that
of the processor: other work on the machine changes it little. The median of the steps counts.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from sae_core.arms import Arm, DenseTied, DenseWarmTied, Expander, FewBits
from sweep.plan.steps import as_in_a_worker
from sweep.train.loop import train_step

M, N, K, TOKENS, STEPS, WARM_UP = 256, 2048, 32, 256, 60, 5
WIDTHS = (4, 2, 1.58)
ARMS: tuple[Arm, ...] = (
    *(Expander(N, 7, K, encoder=encoder) for encoder in ("topk", "mp_refit")),
    *(DenseTied(N, K, encoder=encoder) for encoder in ("topk", "mp_refit")),
    DenseWarmTied(N, K),
)
RESULTS = Path(__file__).parent / "results" / "rounding.md"


def step_times(arms: list[Arm]) -> list[float]:
    """Return the median seconds of a training step of an SAE of each arm on the same random activations."""
    saes = [arm.build(M, seed=0) for arm in arms]
    optimizers = [torch.optim.Adam(sae.parameters(), lr=3e-4, fused=True) for sae in saes]
    generator, taken = torch.Generator().manual_seed(0), [list[float]() for _ in arms]
    for _ in range(STEPS):
        h = torch.randn(TOKENS, M, generator=generator)
        for sae, optimizer, times in zip(saes, optimizers, taken, strict=True):
            before = time.process_time()
            train_step(sae, optimizer, h, 3e-4, 1.0)
            times.append(time.process_time() - before)
    return [statistics.median(times[WARM_UP:]) for times in taken]


def main() -> None:
    heads = ["arm", "float32, ms", *(f"{bits} bits" for bits in WIDTHS)]
    lines = ["# Training steps with rounded values", "", "`python -m tests.benchmarks.rounding`, one core, torch "]
    lines[-1] += f"{torch.__version__}: n={N}, m={M}, k={K}, {TOKENS} tokens. Processor time of a"
    lines += ["step, that of rounded values over that of float32.", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    with as_in_a_worker(threads=1):
        for arm in ARMS:
            plain, *rounded = step_times([arm, *(FewBits(arm, bits) for bits in WIDTHS)])
            name = arm.label + (" d=7" if isinstance(arm, Expander) else "")
            cells = [name, f"{1e3 * plain:.2f}", *(f"{seconds / plain:.2f}" for seconds in rounded)]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
