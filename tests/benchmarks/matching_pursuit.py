"""Time matching pursuit in each way to keep its correlations up to date, and write the table of results.

    python -m tests.benchmarks.matching_pursuit

Random expanders read by mp_refit, k=32, one thread. The ways take turns, the last one being what the kernel chooses
(`WayToUpdate` in sae_core/kernels/cpu_gram.h). The median of the processor times counts.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from sae_core.arms import Expander
from sae_core.inference import infer_by
from sae_core.kernels import cpu
from sweep.plan.steps import as_in_a_worker

K, ROUNDS, WARM_UP = 32, 9, 2
SHAPES = [  # m, n, d
    *((256, 2048, d) for d in (3, 7, 15, 30, 60)),
    *((576, 4608, d) for d in (7, 14, 28, 57)),
    *((1024, 8192, d) for d in (7, 28, 102)),
    *((2048, 16384, d) for d in (7, 40)),
]
TOKENS = (1, 32, 256, 2048)
WAYS = [*cpu.WAYS[1:], cpu.WAYS[0]]
RESULTS = Path(__file__).parent / "results" / "matching_pursuit.md"


@torch.no_grad()
def times(m: int, n: int, d: int, tokens: int) -> dict[str, float]:
    """Return the median processor time of each way, in seconds."""
    sae, x = Expander(n, d, K).build(m, seed=0), torch.randn(tokens, m, generator=torch.Generator().manual_seed(0))
    read, taken = infer_by(sae, "mp_refit"), {way: list[float]() for way in WAYS}
    for _ in range(ROUNDS):
        for way, found in taken.items():
            with cpu.updating_by(way):
                before = time.process_time()
                read.encode(x)
                found.append(time.process_time() - before)
    return {way: statistics.median(found[WARM_UP:]) for way, found in taken.items()}


def main() -> None:
    heads = [
        "m",
        "n",
        "d",
        "tokens",
        "changes, ms",
        "rows, ms",
        "anew, ms",
        "16 bits, ms",
        "chosen, ms",
        "as fast as in float",
    ]
    lines = ["# Matching pursuit: how correlations are kept up to date", ""]
    lines.append(
        f"`python -m tests.benchmarks.matching_pursuit`, mp_refit, k={K}, one core, torch {torch.__version__}."
    )
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    with as_in_a_worker(threads=1):
        for m, n, d in SHAPES:
            for tokens in TOKENS:
                found = times(m, n, d, tokens)
                cells = [f"{found[way] * 1e3:.2f}" for way in WAYS]
                ratio = min(found["changes"], found["rows"], found["anew"]) / found["best"]
                lines.append(f"| {m} | {n} | {d} | {tokens} | {' | '.join(cells)} | {ratio:.2f} |")
                print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
