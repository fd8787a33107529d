"""Our kernels and training steps side by side with those of others: `make bench`, 27 minutes on two cores.

All contenders run with `sweep.machine.process.keep_freed_memory`: sparsify's step at m=768 is 1.5 times as fast with it
as without (2026-11-23). Every row runs in a process of its own, so that one row's memory is not another's (on a GPU all
rows run in this process, whose allocator tells them apart), and rows take turns for several rounds, so that a busy
machine slows all alike; a figure is the median over rounds of the median over repeats. Memory is the growth of the peak
resident size (of allocated GPU memory) since just before the row's contender is built. On a GPU, steps of our own are
replayed from a CUDA graph, as in training. At the paper's batch of 256, steps have one thread, as a run of a sweep has
when there is one for each core. Results go to tests/benchmarks/results/: kernels.csv, kernels.md,
kernels.png (kernels-cuda... where a GPU is measured).

    python -m tests.benchmarks.kernels [--device cpu|cuda] [--rounds 3] [--quick] [--without sae_lens,...]
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from tests.benchmarks.contenders import CONTENDERS, ENCODES, IN_BASES, Cell

RESULTS = Path(__file__).parent / "results"
SHAPES = [(512, 4096), (768, 6144), (2048, 16384)]
SMALL_BATCH = [(256, 2048, 32), (576, 4608, 32), (2048, 16384, 64)]  # (d_in, n_latents, k) of the paper's batch of 256
WIDE = (2048, 131072)  # only for our expander: dense atoms would take 1 GiB, 4 with their gradient and moments
DEGREES = (7, 30, 102)
DENSE = ("dense_tied", "sae_lens", "sparsify", "masked_dense")
PEERS = ("sae-lens", "eai-sparsify", "scikit-learn")
SECONDS = {"cpu": 1.5, "cuda": 0.5}  # a row is repeated for about this long in a round, but at least MIN_REPEATS times
MIN_REPEATS = 3


def cells(device: str, quick: bool) -> list[tuple[str, Cell]]:
    """Return every (contender, cell) of the side-by-side table."""
    rows: list[tuple[str, Cell]] = []
    tokens = 8192 if device == "cuda" else 1024
    for d_in, n, k in SMALL_BATCH[:1] if quick else SMALL_BATCH:
        cell = Cell(d_in, n, k, tokens=256, device=device, threads=1 if device == "cpu" else 0)
        rows += [(name, cell) for name in ("expander", "train_by_mp_refit", "dense_tied", "sae_lens", "sparsify")]
    for d_in, n in SHAPES[:1] if quick else SHAPES:
        cell = Cell(d_in, n, 64, tokens=tokens, device=device)
        rows += [("expander", replace(cell, degree=d)) for d in DEGREES]
        rows += [(name, cell) for name in IN_BASES]
        rows += [(name, cell) for name in DENSE]
        rows += [("encode_expander", replace(cell, degree=d)) for d in DEGREES]
        rows += [(name, cell) for name in ENCODES if name != "encode_expander"]
    if not quick:
        wide = Cell(*WIDE, 64, tokens=tokens, device=device)
        rows += [(name, replace(wide, degree=d)) for name in ("expander", "encode_expander") for d in DEGREES]
    return rows


def growth_cells(device: str) -> dict[str, list[Cell]]:
    """Return cells by axis, that axis alone varied around the middle of the table."""
    base = Cell(2048, 16384, 64, tokens=8192 if device == "cuda" else 1024, device=device)
    return {
        "degree": [replace(base, degree=d) for d in (1, 2, 4, 7, 15, 30, 60, 102)],
        "n_latents": [replace(base, n_latents=n) for n in (4096, 8192, 16384, 32768, 65536, 131072)],
        "d_in": [replace(base, d_in=m) for m in (256, 512, 1024, 2048, 4096)],
        "k": [replace(base, k=k) for k in (8, 16, 32, 64, 128, 256)],
        "tokens": [replace(base, tokens=t) for t in (256, 512, 1024, 2048, 4096)],
    }


def measure(name: str, cell: Cell) -> dict[str, float]:
    """Measure, in this process, the median seconds of one call and the growth of peak memory in bytes."""
    from sweep.machine.process import keep_freed_memory

    keep_freed_memory()
    if cell.threads:
        torch.set_num_threads(cell.threads)
    (torch.randn(64, 64) @ torch.randn(64, 64)).sum()  # so that thread pools and BLAS do not count as the row's memory
    before = _memory_mark(cell.device)
    call = CONTENDERS[name](cell)
    for _ in range(1 if cell.device == "cpu" else 5):  # a GPU's first steps compile kernels and record a graph
        _timed(call, cell.device)
    first = _timed(call, cell.device)
    repeats = max(MIN_REPEATS, min(50, int(SECONDS[cell.device] / first)))
    seconds = statistics.median(_timed(call, cell.device) for _ in range(repeats))
    return {"seconds": seconds, "memory": _memory_peak(cell.device) - before}


def _timed(call, device: str) -> float:
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _memory_mark(device: str) -> int:
    """Reset the peak, and return the memory in use now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # 5 resets the peak resident size
    return _memory_peak(device)


def _memory_peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def in_a_process(name: str, cell: Cell) -> dict[str, float]:
    """Run `measure` in a fresh process; raise CalledProcessError where it fails."""
    command = [sys.executable, "-m", "tests.benchmarks.kernels", "--row", json.dumps([name, asdict(cell)])]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def _last_line(error: Exception) -> str:
    text = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    return (text.strip().splitlines() or ["no message"])[-1]


def collect(rows: list[tuple[str, str, Cell]], rounds: int) -> pd.DataFrame:
    """Measure every (part, contender, cell) of `rows`, `rounds` times in turn; return a table of the medians."""
    found: dict[int, list[dict[str, float]]] = {}
    for turn in range(rounds):
        for i, (_, name, cell) in enumerate(rows):
            try:
                result = measure(name, cell) if cell.device == "cuda" else in_a_process(name, cell)
            except (subprocess.CalledProcessError, torch.OutOfMemoryError, ImportError) as error:
                print(f"  {name} failed: {_last_line(error)}")
                continue
            found.setdefault(i, []).append(result)
            rate = cell.tokens / result["seconds"] / 1e3
            print(
                f"round {turn + 1}/{rounds} {i + 1:3}/{len(rows)} {name:18} m={cell.d_in} n={cell.n_latents} "
                f"d={cell.degree} k={cell.k} tokens={cell.tokens}: {rate:8.2f} k tokens/s "
                f"{result['memory'] / 1e6:7.0f} MB",
                flush=True,
            )
    records = []
    for i, results in sorted(found.items()):
        part, name, cell = rows[i]
        medians = {key: statistics.median(r[key] for r in results) for key in ("seconds", "memory")}
        spread = max(r["seconds"] for r in results) / min(r["seconds"] for r in results)
        records.append({"part": part, "contender": name, **asdict(cell), **medians, "slowest_over_fastest": spread})
    table = pd.DataFrame(records)
    table["tokens_per_second"] = table["tokens"] / table["seconds"]
    return table


def degree_line(table: pd.DataFrame) -> tuple[float, float]:
    """Return (slope, intercept) in seconds of the training step against d, by least squares."""
    rows = table[table["part"] == "growth: degree"]
    x, y = rows["degree"], rows["seconds"]
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return slope, float(y.mean() - slope * x.mean())


def machine(device: str) -> str:
    """Describe the processor or GPU, and the versions that are compared, in one line."""
    if device == "cuda":
        where = torch.cuda.get_device_name()
    else:
        model = Path("/proc/cpuinfo").read_text().split("model name")[1].split(":")[1].splitlines()[0].strip()
        level = torch.backends.cpu.get_cpu_capability()
        where = f"{model} ({level}), {torch.get_num_threads()} threads of {os.cpu_count()} CPUs"
    versions = []
    for package in ("torch", *(("triton",) if device == "cuda" else ()), *PEERS):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} absent")
    return f"{where}; Python {platform.python_version()}, {', '.join(versions)}"


def command(benchmark: str, device: str) -> str:
    """Return the command that measures on `device`, as pages of results name it."""
    return "`make bench`" if device == "cpu" else f"`python -m tests.benchmarks.{benchmark} --device {device}`"


def as_markdown(table: pd.DataFrame, about: str, device: str) -> str:
    """Return the page of results: a table for each shape, and the growth along each axis."""
    lines = [
        "# Kernels and training steps, side by side",
        "",
        f"{date.today()}; {about}. Command: {command('kernels', device)}.",
        "",
    ]
    lines += ["Medians. Freed memory is kept for every row (see the command's docstring), peers included."]
    lines += [f"A row's slowest round took {table['slowest_over_fastest'].median():.2f} times its fastest (median)", ""]
    side = table[table["part"] == "side by side"]
    for (d_in, n, k, tokens, threads), shape in side.groupby(["d_in", "n_latents", "k", "tokens", "threads"]):
        lines += [f"## m={d_in}, n={n}, k={k}, batch {tokens}{', one thread' if threads == 1 else ''}", ""]
        encodes = shape["contender"].isin(list(ENCODES))
        lines += _rows("training step", shape[~encodes])
        if encodes.any():
            lines += _rows("encode + TopK", shape[encodes])
    if (table["part"] == "growth: degree").any():
        slope, intercept = degree_line(table)
        lines += ["## Growth", ""]
        lines += [
            f"Training step against d (m=2048, n=16384, k=64): {slope * 1e3:.3f} ms per unit of d and "
            f"{intercept * 1e3:.2f} ms at d=0; the part that grows is {7 * slope * 1e3:.2f} ms at d=7.",
            "",
            "| axis | value: ms a step |",
            "|---|---|",
        ]
        for part, rows in table[table["part"].str.startswith("growth")].groupby("part", sort=False):
            axis = part.removeprefix("growth: ")
            steps = ", ".join(f"{row[axis]}: {row['seconds'] * 1e3:.1f}" for _, row in rows.iterrows())
            lines.append(f"| {axis} | {steps} |")
        lines.append("")
    return "\n".join(lines)


def _rows(title: str, rows: pd.DataFrame) -> list[str]:
    """Return the lines of one table, the fastest contender first."""
    ours = rows[(rows["contender"].isin(["expander", "encode_expander"])) & (rows["degree"] == 7)]["tokens_per_second"]
    base = float(ours.iloc[0]) if len(ours) else float("nan")
    lines = [f"| {title} | tokens/s | d=7 is faster by | peak memory growth |", "|---|---|---|---|"]
    for _, row in rows.sort_values("tokens_per_second", ascending=False).iterrows():
        sparse = row["contender"] in ("expander", "encode_expander", "masked_dense")
        name = f"{row['contender']} d={row['degree']}" if sparse else row["contender"]
        lines.append(
            f"| {name} | {row['tokens_per_second']:,.0f} | {base / row['tokens_per_second']:.1f}x "
            f"| {row['memory'] / 1e6:,.0f} MB |"
        )
    return [*lines, ""]


def draw(table: pd.DataFrame, about: str, file: Path) -> None:
    """Draw the speed of every training step, and the expander's time against d, into `file`."""
    import matplotlib  # here and not above, because the process of a row does without

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _draw_steps(left, table)
    if (table["part"] == "growth: degree").any():
        _draw_growth(right, table)
    figure.supxlabel(about, fontsize=6)
    figure.savefig(file, dpi=130)


def _draw_steps(axes: Any, table: pd.DataFrame) -> None:
    """Draw a bar for every contender's training step at every shape."""
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    side = table[(table["part"] == "side by side") & ~table["contender"].isin(list(ENCODES))]
    side = side[side["tokens"] == side["tokens"].max()].copy()
    side["name"] = [
        f"{c} d={d}" if c in ("expander", "masked_dense") else c
        for c, d in zip(side["contender"], side["degree"], strict=True)
    ]
    shapes = list(side[["d_in", "n_latents"]].drop_duplicates().itertuples(index=False))
    names = list(side["name"].drop_duplicates())
    ours = [name for name in names if name.startswith("expander d=")]
    others = [name for name in names if name not in ours]
    colours = {name: colormaps["Blues"](0.9 - 0.2 * i) for i, name in enumerate(ours)}
    colours |= {name: colormaps["tab20"](2 + i) for i, name in enumerate(others)}  # the first two are blues
    for x, shape in enumerate(shapes):
        rows = side[(side["d_in"] == shape.d_in) & (side["n_latents"] == shape.n_latents)]
        width = 0.9 / len(names)
        at = [x + (i - (len(rows) - 1) / 2) * width for i in range(len(rows))]
        axes.bar(at, rows["tokens_per_second"], width, color=[colours[name] for name in rows["name"]])
    axes.set(yscale="log", ylabel="tokens per second", title=f"training step, batch {side['tokens'].iloc[0]}, k=64")
    axes.set_xticks(range(len(shapes)), [f"m={shape.d_in}\nn={shape.n_latents}" for shape in shapes])
    handles = [Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
    axes.legend(handles, names, fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _draw_growth(axes: Any, table: pd.DataFrame) -> None:
    """Draw the expander's step against d, with the line through it."""
    growth, (slope, intercept) = table[table["part"] == "growth: degree"], degree_line(table)
    axes.plot(growth["degree"], growth["seconds"] * 1e3, "o", color="C0", label="measured")
    axes.plot([0, 102], [intercept * 1e3, (intercept + 102 * slope) * 1e3], color="C0", lw=1, label="line")
    axes.set(xlabel="d, values per atom", ylabel="ms a step", title="expander step: m=2048, n=16384, k=64")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the smallest shape only, no growth")
    parser.add_argument("--without", default="", help="contenders to leave out, by commas")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        name, cell = json.loads(arguments.row)
        print(json.dumps(measure(name, Cell(**cell))))
        return
    without = set(filter(None, arguments.without.split(",")))
    rows = [("side by side", n, c) for n, c in cells(arguments.device, arguments.quick) if n not in without]
    if not arguments.quick:
        rows += [(f"growth: {a}", "expander", c) for a, row in growth_cells(arguments.device).items() for c in row]
    table = collect(rows, arguments.rounds)
    about = machine(arguments.device)
    stem = "kernels" if arguments.device == "cpu" else "kernels-cuda"
    stem += "-quick" if arguments.quick else ""
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"{stem}.csv", index=False)
    text = as_markdown(table, about, arguments.device)
    (RESULTS / f"{stem}.md").write_text(text)
    draw(table, about, RESULTS / f"{stem}.png")
    print(text)


if __name__ == "__main__":
    main()
