"""Few bits a value in three ways: how much of Gaussian atoms is lost, and how long it takes.

    python -m tests.benchmarks.trellis

It writes the table of results. One thread. Single values are rounded to the grid of so many bits, pieces are the
nearest of a codebook that k-means makes of them, paths are the nearest through the trellis. What is lost is 1 - cos^2
of an atom and what stands for it. No code of b bits a value can lose less than 4^-b.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from sae_core.codebook import product_quantised
from sae_core.rounding import whole_numbers
from sae_core.trellis import nearest_steps, values_on, weighted_steps
from sweep.plan.steps import as_in_a_worker

ATOMS, D_IN = 512, 576
RESULTS = Path(__file__).parent / "results" / "trellis.md"


def ways(bits: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return {what atoms become: how}."""
    energies = torch.diag(torch.logspace(1, -1, D_IN))
    return {
        "single values": lambda atoms: whole_numbers(atoms, bits),
        "pieces": lambda atoms: product_quantised(atoms, 8 // bits, seed=0).values.detach(),
        "paths": lambda atoms: values_on(nearest_steps(atoms, bits), bits),
        "paths for activations": lambda atoms: values_on(weighted_steps(atoms, bits, energies), bits),
    }


def main() -> None:
    atoms = torch.randn(ATOMS, D_IN, generator=torch.Generator().manual_seed(0))
    lines = ["# Atoms of few bits: single values, pieces out of a codebook, paths through a trellis", ""]
    lines.append(
        f"`python -m tests.benchmarks.trellis`, one core, torch {torch.__version__}. {ATOMS} Gaussian atoms of"
    )
    lines += [f"{D_IN} values; paths for activations are for energies that fall from 10 to .1.", ""]
    lines += ["| bits | what atoms become | lost | least | microseconds a value |", "|---|---|---|---|---|"]
    with as_in_a_worker(threads=1):
        for bits in (4, 2, 1):
            for name, made in ways(bits).items():
                before = time.perf_counter()
                found = made(atoms)
                seconds = time.perf_counter() - before
                lost = float(1 - torch.cosine_similarity(found, atoms).square().mean())
                cells = [str(bits), name, f"{lost:.4f}", f"{4.0**-bits:.4f}", f"{1e6 * seconds / atoms.numel():.2f}"]
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
