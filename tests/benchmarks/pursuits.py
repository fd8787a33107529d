"""Pursuits side by side with one-shot encoders, batched PyTorch and scikit-learn: the second half of `make bench`.

Our pursuits and the one-shot encoders take batches of 1024 tokens, slow contenders smaller ones that the table names.
Rows are run in the way of `tests.benchmarks.kernels`. Results go to tests/benchmarks/results/pursuits.csv and
pursuits.md (pursuits-cuda...).

    python -m tests.benchmarks.pursuits [--device cpu|cuda] [--rounds 3] [--quick]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import date

import pandas as pd

from tests.benchmarks.contenders import SOLVERS, Cell
from tests.benchmarks.kernels import RESULTS, collect, command, machine

SHAPES = [(512, 4096, 7), (512, 4096, 50), (2048, 16384, 7)]
ONE_SHOT = ("encode_expander", "encode_torch_fp32", "encode_torch_bf16")
TRAINING = ("expander", "train_by_mp_refit")
SLOW = {"torch_omp": 64, "sklearn_omp": 16}  # tokens of a batch; these run at the smallest shape only
TARGETS = {  # tokens a second on two cores
    ("omp", 512, 7): 4000,
    ("omp", 512, 50): 1000,
    ("gomp16", 512, 7): 25_000,
    ("mp_refit", 512, 7): 20_000,
    ("mp_refit", 2048, 7): 8000,
}


def rows(device: str, quick: bool) -> list[tuple[str, str, Cell]]:
    """Return every (part, contender, cell) of the table."""
    found: list[tuple[str, str, Cell]] = []
    for d_in, n, degree in SHAPES[:1] if quick else SHAPES:
        cell = Cell(d_in, n, 64, degree, tokens=8192 if device == "cuda" else 1024, device=device)
        found += [("pursuits", name, cell) for name in (*SOLVERS, *TRAINING, *ONE_SHOT)]
        if d_in == 512 and device == "cpu":
            found += [("pursuits", name, replace(cell, tokens=tokens)) for name, tokens in SLOW.items()]
    return found


def as_markdown(table: pd.DataFrame, about: str, device: str) -> str:
    """Return the page of results, with a table for each shape; `about` says which machine and versions."""
    lines = ["# Pursuits, side by side", "", f"{date.today()}; {about}. Command: {command('pursuits', device)}.", ""]
    lines += ["Codes of k=64 atoms for random targets; medians. `refit` is least squares on given picks alone."]
    lines += [
        f"A row's slowest round took {table['slowest_over_fastest'].median():.2f} times its fastest (median).",
        "",
    ]
    for (d_in, n, degree), shape in table.groupby(["d_in", "n_latents", "degree"]):
        rate = shape.set_index("contender")["tokens_per_second"]
        lines += [f"## m={d_in}, n={n}, d={degree}", ""]
        lines += ["| | tokens/s | target | exact OMP is faster by | tokens a batch |", "|---|---|---|---|---|"]
        for name, speed in rate.sort_values(ascending=False).items():
            target = TARGETS.get((str(name), int(d_in), int(degree)))
            batch = int(shape.set_index("contender").loc[name, "tokens"])
            lines.append(
                f"| {name} | {speed:,.0f} | {f'{target:,}' if target else ''} | {rate['omp'] / speed:,.2f}x | {batch} |"
            )
        lines.append("")
        if {"train_by_mp_refit", "mp_refit"} <= set(rate.index):
            share = rate["train_by_mp_refit"] / rate["mp_refit"]
            lines += [f"A training step by mp_refit runs at {share:.2f} of its inference's rate.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the smallest shape only")
    arguments = parser.parse_args()
    table = collect(rows(arguments.device, arguments.quick), arguments.rounds)
    stem = "pursuits" if arguments.device == "cpu" else "pursuits-cuda"
    stem += "-quick" if arguments.quick else ""
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"{stem}.csv", index=False)
    text = as_markdown(table, machine(arguments.device), arguments.device)
    (RESULTS / f"{stem}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
