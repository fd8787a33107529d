"""Time training steps beside the work that `sweep.plan.workload` predicts for them.

    python -m tests.benchmarks.workload [--quick]

Each step has 256 tokens and one thread. A line gives its measured time, the predicted work and their ratio; the last
lines give the median and the spread of the ratios. Nothing is fitted or written. A median other than 1 says how fast
the machine is, which a plan finds out by itself. A wide spread on an otherwise idle machine says that the factors do
not describe the code well.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch

from sae_core.storage import FROM_SEED, NO_SUPPORT, Layout
from sweep.plan.steps import StepShape, as_in_a_worker, probe, shape_of
from sweep.plan.workload import step_work

TOKENS, K = 256, 32
PURSUITS = (None, "mp_refit", "omp", "gomp4", "mp_cg2")  # None: the one-shot encoder
WIDTHS, LATENTS, DEGREES = (64, 256, 1024), (512, 2048, 8192), (3, 15, 60)
QUICK_WIDTHS, QUICK_LATENTS, QUICK_DEGREES = (64, 256), (512, 2048), (3, 15)


def shapes(quick: bool) -> Iterator[StepShape]:
    """Yield the training steps: every width, number of latents and encoder, with sparse atoms and with dense ones."""
    widths, latents = (QUICK_WIDTHS, QUICK_LATENTS) if quick else (WIDTHS, LATENTS)
    degrees = QUICK_DEGREES if quick else DEGREES
    for d_in, n, pursuit in product(widths, latents, PURSUITS):
        for degree in degrees:
            yield shape_of(Layout(d_in, n, degree, FROM_SEED, pursuit=pursuit), K, TOKENS)
        yield shape_of(Layout(d_in, n, d_in, NO_SUPPORT, pursuit=pursuit), K, TOKENS)


def described(shape: StepShape) -> str:
    """Return the encoder and the sizes of a step in columns."""
    layout = shape.layout
    degree = "dense" if layout.support == NO_SUPPORT else f"d={layout.degree}"
    return f"{layout.pursuit or 'one-shot':9} m={layout.d_in:<5} n={layout.n_latents:<5} {degree:6}"


def report(ratios: list[float]) -> Iterator[str]:
    """Yield the median of the ratios and how far they lie from it, as factors."""
    center = float(np.median(ratios))
    factors = sorted(math.exp(abs(math.log(ratio / center))) for ratio in ratios)
    half, most = np.quantile(factors, [0.5, 0.9])
    yield f"{len(ratios)} steps, measured to predicted: median {center:.2f}"
    yield f"spread: half within {half:.2f} times of the median, 90% within {most:.2f}, all within {factors[-1]:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller steps, under a minute")
    arguments = parser.parse_args()
    ratios: list[float] = []
    print(f"{'step':36} {'measured ns':>14} {'predicted ns':>14} {'ratio':>6}")
    with as_in_a_worker(threads=1):
        for shape in shapes(arguments.quick):
            measured, predicted = 1e9 * probe(shape, "auto", torch.device("cpu")), step_work(*shape)
            ratios.append(measured / predicted)
            print(f"{described(shape):36} {measured:14,.0f} {predicted:14,.0f} {ratios[-1]:6.2f}", flush=True)
    print("\n".join(report(ratios)))


if __name__ == "__main__":
    main()
