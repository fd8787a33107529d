"""Read SAEs whose atoms stay packed in memory beside their float32 form: memory and speed. Write the table of results.

    python -m tests.benchmarks.packed

Random values rounded to few bits, one thread. What codes of a batch take is measured of both forms in turns; the median
of the processor times counts, which other work on the machine changes little. Memory is what atoms, their
support and the encoder take.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from sae_core.arms import DenseTied, DenseWarmTied, Expander, ProductQuantised, Quantised, TrellisCoded
from sae_core.arms.base import Arm
from sae_core.inference import infer_by
from sae_core.packed import pack
from sae_core.sae import SAE
from sweep.plan.steps import as_in_a_worker

BITS = (8, 4, 2, 1.58, 1)
CASES: list[tuple[int, Arm]] = [
    *((576, Quantised(DenseTied(4608, 32), bits)) for bits in BITS),
    (576, ProductQuantised(DenseTied(4608, 32), 2)),
    (576, TrellisCoded(DenseTied(4608, 32), 2)),
    (576, Quantised(DenseWarmTied(4608, 32), 2, encoder_bits=4)),
    *((2048, Quantised(Expander(16384, 7, 64), bits)) for bits in (8, 2)),
]
BATCHES, ROUNDS, WARM_UP = (64, 256, 2048), 15, 3
RESULTS = Path(__file__).parent / "results" / "packed.md"


def atom_bytes(sae: SAE) -> int:
    """Return the bytes that atoms, their support and the encoder take in memory."""
    parts = (sae.dictionary, sae.encoder)
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def times(saes: list[SAE], h: torch.Tensor) -> list[float]:
    """Return the median processor time of each SAE's `encode` of h, taken in turns."""
    taken = [list[float]() for _ in saes]
    for _ in range(ROUNDS):
        for sae, found in zip(saes, taken, strict=True):
            before = time.process_time()
            sae.encode(h)
            found.append(time.process_time() - before)
    return [statistics.median(found[WARM_UP:]) for found in taken]


def row(d_in: int, arm: Arm) -> str:
    """Return a row of the table: memory, and how many times as long the packed form takes."""
    sae = arm.derive(arm.starts_from.build(d_in, seed=0))  # type: ignore[union-attr]
    packed, cells = pack(sae), [arm.label, str(d_in), str(sae.dictionary.n_latents)]
    # The float form is what such an SAE would be otherwise: its values as float32.
    cells += [f"{atom_bytes(sae) / 2**20:.1f}", f"{atom_bytes(packed) / 2**20:.2f}"]
    for tokens in BATCHES:
        h = torch.randn(tokens, d_in, generator=torch.Generator().manual_seed(0))
        floats, ours = times([sae, packed], h)
        cells.append(f"{ours / floats:.2f}")
    h = torch.randn(256, d_in, generator=torch.Generator().manual_seed(0))
    floats, ours = times([infer_by(sae, "mp_refit"), infer_by(packed, "mp_refit")], h)
    return f"| {' | '.join([*cells, f'{ours / floats:.2f}'])} |"


def main() -> None:
    heads = ["arm", "m", "n", "float32, MiB", "packed, MiB", *(f"time, {tokens} tokens" for tokens in BATCHES)]
    heads.append("by mp_refit, 256")
    lines = ["# Atoms and encoder weights that stay packed in memory", ""]
    lines.append(f"`python -m tests.benchmarks.packed`, one core, torch {torch.__version__}. All of an SAE in memory;")
    lines += ["the processor time of finding codes, that of packed atoms over that of float32 ones.", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    with as_in_a_worker(threads=1):
        for case in CASES:
            lines.append(row(*case))
            print(lines[-1], flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
