"""Time training steps whose gradients are written out beside the same steps by autograd, and write the results.

    python -m tests.benchmarks.gradients

Steps of 256 tokens on one thread. Both kinds take turns, and the time is that of the processor: other work on the
machine changes it little. The median of the steps counts.
"""

from __future__ import annotations

import copy
import statistics
import time
from pathlib import Path

import torch

from sae_core.arms import Arm, DenseTied, Expander
from sae_core.losses import squared_errors
from sae_core.sae import SAE
from sweep.plan.steps import as_in_a_worker
from sweep.train.loop import train_step

TOKENS, STEPS, WARM_UP, LR, CLIP = 256, 60, 5, 3e-4, 1.0
CASES: list[tuple[int, Arm]] = [  # m, arm
    (256, Expander(2048, 7, 32)),
    (576, Expander(4608, 7, 32)),
    (2048, Expander(16384, 7, 64)),
    (256, Expander(2048, 7, 32, encoder="mp_refit")),
    (256, DenseTied(224, 32)),
    (256, DenseTied(2048, 32)),
]
RESULTS = Path(__file__).parent / "results" / "gradients.md"


def autograd_step(sae: SAE, optimizer: torch.optim.Optimizer, h: torch.Tensor) -> None:
    """Do the step that `train_step` does, with the gradients of autograd."""
    optimizer.zero_grad(set_to_none=True)
    squared_errors(sae.residual_coordinates(h).residual).mean().backward()
    torch.nn.utils.clip_grad_norm_(sae.parameters(), CLIP)
    optimizer.step()


def step_times(m: int, arm: Arm) -> tuple[float, float]:
    """Return the median seconds of a step with written-out gradients, and of one by autograd."""
    saes = [arm.build(m, seed=0)]
    saes.append(copy.deepcopy(saes[0]))
    optimizers = [torch.optim.Adam(sae.parameters(), lr=LR, fused=True) for sae in saes]
    generator, taken = torch.Generator().manual_seed(0), [list[float](), list[float]()]
    for _ in range(STEPS):
        h = torch.randn(TOKENS, m, generator=generator)
        for kind, (sae, optimizer, times) in enumerate(zip(saes, optimizers, taken, strict=True)):
            before = time.process_time()
            if kind:
                autograd_step(sae, optimizer, h)
            else:
                train_step(sae, optimizer, h, LR, CLIP)
            times.append(time.process_time() - before)
    ours, theirs = (statistics.median(times[WARM_UP:]) for times in taken)
    return ours, theirs


def main() -> None:
    lines = ["# Training steps with gradients written out", ""]
    lines += [f"`python -m tests.benchmarks.gradients`, one core, torch {torch.__version__}, {TOKENS} tokens a step."]
    lines += ["Processor time.", "", "| arm | m | n | k | step, ms | tokens/s | by autograd = 1 |", "|---" * 7 + "|"]
    with as_in_a_worker(threads=1):
        for m, arm in CASES:
            ours, theirs = step_times(m, arm)
            n, degree, k = arm.sizes(m)
            name = arm.label + (f" d={degree}" if degree < m else "")
            rate = f"{TOKENS / ours:,.0f}"
            lines.append(f"| {name} | {m} | {n} | {k} | {1e3 * ours:.2f} | {rate} | {ours / theirs:.2f} |")
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
