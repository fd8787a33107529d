"""Measure what the LM costs: its pass over text, what is done once per layer, and each reading of an SAE.

    python -m tests.benchmarks.lm [pass|once|readings|dtype|resume|embedded ...]

Times are given as ratios to P: one plain forward pass of the whole LM over the same held-out windows, in the same dtype
and the same run. Writes tests/benchmarks/results/lm.md. The LM is SmolLM2-135M (`make smollm2`), block 12.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import sweep.launch  # noqa: F401  registers what configs resolve
from sae_core.arms import Expander
from sweep.activations.cache import CacheKey
from sweep.activations.capture import ensure_pools
from sweep.activations.logits import KeptLogits
from sweep.corpus.windows import Windows
from sweep.jobs.build import build
from sweep.jobs.job import Job
from sweep.lm.dtype import bfloat16_speedup
from sweep.lm.find import DTYPES, ModelConfig, find_model
from sweep.lm.model import LM, load_lm
from sweep.machine.process import prepare_process
from sweep.measures.baselines import baselines
from sweep.measures.clean import CleanPass, batch_size_within, hidden_of
from sweep.measures.measures import Reading, ReadingRequest, measure_together
from sweep.measures.rounding import _cross_entropy
from sweep.run.loaded import held_out_of
from tests.benchmarks.sweeps import sections
from tests.sweep.world import composed

RESULTS = Path(__file__).parent / "results" / "lm.md"
CACHE = Path(".cache/activations")
LAYER, BATCH, WINDOW = 12, 16, 128
DTYPE_NAMES = ("float32", "bfloat16")


def seconds(do: Callable[[], object]) -> float:
    """Return the seconds that the call takes."""
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


class Bench:
    """An LM on held-out windows, beside its plain forward pass over them."""

    def __init__(self, dtype: str, windows: int, layer: int = LAYER, logits: Path | None = None):
        job = smollm2()
        self.lm = loaded(dtype)
        every = held_out_of(job)
        self.windows = Windows(every.tokens[:windows], every.lengths[:windows])
        self.layer, self.dtype = layer, dtype
        together = batch_size_within(BATCH, WINDOW, job.info.vocabulary, DTYPES[dtype].itemsize)
        hidden = hidden_of(self.lm, layer, self.windows, BATCH)
        keep = None if logits is None else KeptLogits(logits).of
        self.clean = CleanPass(lambda: self.lm, layer, self.windows, hidden, together, keep=keep)
        self._plain()  # the first pass is slower

    def _plain(self) -> None:
        with torch.inference_mode():
            for part in torch.from_numpy(self.windows.tokens).split(BATCH):
                self.lm.model(input_ids=part, use_cache=False)

    def capture(self) -> None:
        """Capture the held-out activations."""
        hidden_of(self.lm, self.layer, self.windows, BATCH)

    def once(self) -> None:
        """Measure the baselines: clean, zero and mean."""
        with TemporaryDirectory() as folder:
            self.base = baselines(self.clean, torch.zeros(self.lm.d_model), Path(folder), "k")

    def read(self, inference: Sequence[str], saes: int = 1) -> None:
        """Measure SAEs, each read in the ways `inference`."""
        made = [Expander(8 * self.lm.d_model, 7, 32).build(self.lm.d_model, seed=seed) for seed in range(saes)]
        requests = [
            ReadingRequest([Reading(sae, name, self.base, "all_tokens") for name in inference], lambda *_: None)
            for sae in made
        ]
        measure_together(self.clean, requests)

    def ratios(self, **work: Callable[[], object]) -> tuple[float, dict[str, float]]:
        """Return (P in seconds, {work: its time over P}); P is timed before and after each, and the faster kept."""
        found: dict[str, float] = {}
        plain = [seconds(self._plain)]
        for name, do in work.items():
            taken = seconds(do)
            plain.append(seconds(self._plain))
            found[name] = taken / min(plain[-2:])
        return min(plain), found


def smollm2(*overrides: str) -> Job:
    """Return a job on SmolLM2."""
    job = build(composed("model=smollm2-135m", "layer=12", f"cache_dir={CACHE}", *overrides), "bench")
    assert isinstance(job, Job)
    return job


def loaded(dtype: str) -> LM:
    """Return SmolLM2 in a dtype."""
    job = smollm2()
    return load_lm(replace(job.model, dtype=dtype), job.info, torch.device("cpu"))


def dtype() -> Iterator[str]:
    """Compare float32 with bfloat16."""
    yield "## float32 and bfloat16\n"
    yield f"A product of the LM's size is {bfloat16_speedup(576):.2f} times as fast in bfloat16 on this machine "
    yield "(`sweep.lm.dtype`, which `model.dtype=auto` asks).\n"
    every = held_out_of(smollm2())
    held_out = Windows(every.tokens[:50], every.lengths[:50])
    plain, ce = {}, {}
    for name in DTYPE_NAMES:
        bench = Bench(name, len(held_out.tokens))
        plain[name], _ = bench.ratios(nothing=lambda: None)
        ce[name] = _cross_entropy(bench.lm, held_out, BATCH)
    yield "| | one plain pass over 50 windows (P) | clean cross-entropy |"
    yield "|---|---|---|"
    for name in DTYPE_NAMES:
        yield f"| {name} | {plain[name]:.1f} s | {ce[name]:.4f} nats |"
    yield f"\nbfloat16 is {plain['float32'] / plain['bfloat16']:.2f} times as fast.\n"


def once() -> Iterator[str]:
    """Measure what is done once per layer and held-out set."""
    yield "## Once per layer and held-out set: clean, zero, mean\n"
    yield "| dtype | P | capture | clean, zero and mean | in all |"
    yield "|---|---|---|---|---|"
    for name in DTYPE_NAMES:
        bench = Bench(name, 50)
        plain, r = bench.ratios(capture=bench.capture, once=bench.once)
        both = r["capture"] + r["once"]
        yield f"| {name} | {plain:.1f} s | {r['capture']:.2f} P | {r['once']:.2f} P | {both:.2f} P |"
    yield ""


def readings() -> Iterator[str]:
    """Measure what readings cost, by their number and by SAEs, windows and layers."""
    yield "## Readings\n"
    yield "All that an evaluation does with the LM, over P. Clean logits are made anew, or kept on disk.\n"
    yield "| dtype | layer | windows | SAEs | readings each | clean logits | in all | each reading after the first |"
    yield "|---|---|---|---|---|---|---|---|"
    one, four = ["encoder"], ["encoder", "topk", "refit", "mp_refit"]
    cases = [("float32", LAYER, 32, False), ("bfloat16", LAYER, 32, False), ("bfloat16", LAYER, 32, True)]
    cases += [("bfloat16", LAYER, 16, False), ("bfloat16", 6, 16, False), ("bfloat16", 24, 16, False)]
    for name, layer, windows, kept in cases:
        with TemporaryDirectory() as folder:
            bench = Bench(name, windows, layer, Path(folder) if kept else None)
            bench.once()
            _, r = bench.ratios(
                one=lambda b=bench: b.read(one),
                four=lambda b=bench: b.read(four),
                saes=lambda b=bench: b.read(one, saes=4),
            )
        about, logits = f"| {name} | {layer} | {windows}", "kept" if kept else "made"
        yield f"{about} | 1 | 1 | {logits} | {r['one']:.2f} P | |"
        yield f"{about} | 1 | 4 | {logits} | {r['four']:.2f} P | {(r['four'] - r['one']) / 3:.2f} P |"
        yield f"{about} | 4 | 1 | {logits} | {r['saes']:.2f} P | {(r['saes'] - r['one']) / 3:.2f} P |"
    yield ""


def _key(tokens: int) -> CacheKey:
    return CacheKey("lm", "auto", LAYER, "resid_post", "text", WINDOW, "none", tokens, "float16", 0)


def _windows(count: int) -> Windows:
    tokens = np.random.default_rng(0).integers(0, 40_000, (count, WINDOW))
    return Windows(tokens, np.full(count, WINDOW))


def _worker(folder: Path, windows: Windows, dtype: str, threads: int, ready, go, taken) -> None:
    """Load the LM, wait for the others, and take part in a pass."""
    prepare_process()
    torch.set_num_threads(threads)
    lm = loaded(dtype)
    lm.capture(torch.from_numpy(windows.tokens[:BATCH]), [LAYER])
    ready.release()
    go.wait()
    started = time.perf_counter()
    ensure_pools(folder, [_key(windows.n_tokens)], lambda: lm, lambda: windows, BATCH)
    taken.put(time.perf_counter() - started)


def _pass_seconds(windows: Windows, dtype: str, workers: int, threads: int) -> float:
    context = multiprocessing.get_context("spawn")
    ready, go, taken = context.Semaphore(0), context.Event(), context.Queue()
    with TemporaryDirectory() as folder:
        arguments = Path(folder), windows, dtype, threads, ready, go, taken
        processes = [context.Process(target=_worker, args=arguments) for _ in range(workers)]
        for process in processes:
            process.start()
        for _ in processes:
            ready.acquire()
        go.set()
        found = [taken.get() for _ in processes]
        for process in processes:
            process.join()
    return max(found)


def lm_pass() -> Iterator[str]:
    """Measure the LM pass by the number of workers that want its entry."""
    yield "## The LM pass\n"
    yield f"To block {LAYER}, until the entry is there. One worker of one thread used to make it while others waited.\n"
    yield "| dtype | workers | threads each | tokens/s | times as fast as one thread |"
    yield "|---|---|---|---|---|"
    for name in DTYPE_NAMES:
        windows = _windows(320)
        alone = 0.0
        for workers, threads in ((1, 1), (2, 1), (1, 2)):
            taken = _pass_seconds(windows, name, workers, threads)
            alone = alone or taken
            yield f"| {name} | {workers} | {threads} | {windows.n_tokens / taken:,.0f} | {alone / taken:.2f} |"
    yield ""


def resume() -> Iterator[str]:
    """Say how much of a killed pass is lost: at most the parts that workers have in hand."""
    from sweep.activations.parts import PART_TOKENS

    yield "## A killed pass\n"
    for tokens in (200_000, 1_000_000):
        share = 2 * PART_TOKENS / tokens
        yield f"- {tokens:,} tokens: two workers have at most 2 parts of {PART_TOKENS:,} in hand, **{share:.1%}**."
    yield ""


def embedded() -> Iterator[str]:
    """Measure the LM's part of an evaluation on the embedded LM, whose vocabulary is small."""
    yield "## The embedded LM (4 blocks, a vocabulary of 4,096)\n"
    job = build(composed("layer=1", f"cache_dir={CACHE}"), "bench")
    assert isinstance(job, Job)
    config = ModelConfig(name="embedded", path=str(job.info.folder))
    lm = load_lm(config, find_model(config), torch.device("cpu"))
    bench = Bench.__new__(Bench)
    bench.lm, bench.windows, bench.layer = lm, held_out_of(job), 1
    hidden = hidden_of(lm, 1, bench.windows, BATCH)
    bench.clean = CleanPass(lambda: lm, 1, bench.windows, hidden, BATCH)
    bench.once()
    plain, r = bench.ratios(
        again=bench.once, one=lambda: bench.read(["encoder"]), two=lambda: bench.read(["encoder", "topk"])
    )
    yield f"P is {plain:.2f} s. Clean, zero and mean: {r['again']:.2f} P (the clean pass is remembered); "
    yield f"one reading {r['one']:.2f} P, each further one {r['two'] - r['one']:.2f} P.\n"


PARTS = {
    "dtype": dtype,
    "pass": lm_pass,
    "resume": resume,
    "once": once,
    "readings": readings,
    "embedded": embedded,
}
HEAD = f"""# What the LM costs

`make bench-lm`, {os.cpu_count()} CPU cores, torch {torch.__version__}. P is one plain forward pass of the whole LM over
the same windows, in the same dtype and run.

"""


def main(names: list[str]) -> None:
    """Measure the parts of these names, or all, and replace their sections of the page."""
    done = sections(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or PARTS:
        made = "\n".join(PARTS[name]())
        print(made, flush=True)
        done |= sections(made)
        RESULTS.write_text(HEAD + "\n".join(done.values()))


if __name__ == "__main__":
    prepare_process()
    torch.set_num_threads(2)
    main(sys.argv[1:])
