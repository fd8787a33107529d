"""Measure what the LM costs: its pass over text, what is done once per layer, and each reading of an SAE.

    python -m tests.benchmarks.lm [dtype|pass|resume|once|readings|vocabulary|embedded|sae_lens ...]

Times are given as ratios to P: one plain forward pass of the whole LM over the same held-out windows, in the same dtype
and the same run. Writes tests/benchmarks/results/lm.md. The LM is SmolLM2-135M (`make smollm2`), block 12.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import sweep.launch  # noqa: F401  registers what configs resolve
from sae_core.arms import Expander
from sae_core.kernels.reference import densify
from sae_core.sae import SAE
from sweep.activations.cache import CacheKey
from sweep.activations.capture import ensure_pools
from sweep.activations.logits import KeptLogits
from sweep.corpus.windows import Windows
from sweep.jobs.build import build
from sweep.jobs.job import Job
from sweep.lm.dtype import bfloat16_speedup
from sweep.lm.find import ModelConfig, find_model
from sweep.lm.model import LM, load_lm
from sweep.lm.ordinary import OrdinaryTokens, norms_of
from sweep.lm.outline import embedding_rows
from sweep.machine.process import prepare_process
from sweep.measures.baselines import baselines
from sweep.measures.clean import CleanPass, batch_size_within, hidden_of
from sweep.measures.measures import Reading, ReadingRequest, measure_together
from sweep.measures.positions import ALL, Positions
from sweep.measures.rounding import _cross_entropy
from sweep.run.loaded import held_out_of, tokenizer_of
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
    """An LM on held-out windows, beside its plain forward pass over them.

    Args:
        layer: the hook point is the residual stream after this block.
        ordinary: replace and measure ordinary tokens, as `eval.tokens=ordinary` does; otherwise all.
        logits: the folder in which clean logits are kept; None to make them anew.
    """

    def __init__(self, lm: LM, windows: Windows, layer: int, ordinary: bool = False, logits: Path | None = None):
        self.lm, self.windows, self.layer = lm, windows, layer
        rows = cast(int, embedding_rows(lm.model))
        width = next(iter(lm.model.parameters())).itemsize
        together = batch_size_within(BATCH, windows.tokens.shape[1], rows, width)
        hidden = hidden_of(lm, layer, windows, BATCH)
        keep = None if logits is None else KeptLogits(logits).of
        positions = ordinary_positions(hidden(slice(None)), windows) if ordinary else ALL
        self.clean = CleanPass(lambda: lm, layer, windows, hidden, together, positions, keep=keep)
        lm.why_whole(layer)
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

    def read(self, readings: int, saes: int = 1) -> None:
        """Measure SAEs, each read in several ways, whose codes cost little beside the LM."""
        made = [Expander(8 * self.lm.d_model, 7, 32).build(self.lm.d_model, seed=seed) for seed in range(saes)]
        requests = [
            ReadingRequest([Reading(sae, "encoder", self.base, "all_tokens") for _ in range(readings)], lambda *_: None)
            for sae in made
        ]
        measure_together(self.clean, requests)

    def ratios(self, rounds: int = 2, **work: Callable[[], object]) -> tuple[float, dict[str, float]]:
        """Return (P in seconds, {work: its time over P}), each the least of some rounds."""
        least = dict.fromkeys(("plain", *work), float("inf"))
        for _ in range(rounds):
            for name, do in {"plain": self._plain, **work}.items():
                least[name] = min(least[name], seconds(do))
        plain = least.pop("plain")
        return plain, {name: taken / plain for name, taken in least.items()}


def ordinary_positions(hidden: torch.Tensor, windows: Windows) -> Positions:
    """Return the tokens that are no longer than five times their layer's median, as SmolLM2's runs measure them."""
    norms = norms_of(hidden)
    median = float(norms[torch.from_numpy(windows.mask())].median())
    return Positions(OrdinaryTokens((), 5 * median), all_tokens=False)


def of_smollm2(dtype: str, windows: int, layer: int = LAYER, ordinary: bool = False, logits: Path | None = None):
    """Return SmolLM2 on held-out windows."""
    every = held_out_of(smollm2())
    return Bench(loaded(dtype), Windows(every.tokens[:windows], every.lengths[:windows]), layer, ordinary, logits)


def smollm2(*overrides: str) -> Job:
    """Return a job on SmolLM2."""
    job = build(composed("model=smollm2-135m", "layer=12", f"cache_dir={CACHE}", *overrides), "bench")
    assert isinstance(job, Job)
    return job


def loaded(dtype: str) -> LM:
    """Return SmolLM2 in a dtype."""
    job = smollm2()
    return load_lm(replace(job.model, dtype=dtype), job.info, torch.device("cpu"))


def _by_mkl(model: torch.nn.Module) -> None:
    """Undo what `multiply_by_onednn` did."""
    for module in model.modules():
        vars(module).pop("forward", None)


def dtype() -> Iterator[str]:
    """Compare float32, by oneDNN and by MKL, with bfloat16."""
    yield "## float32 and bfloat16\n"
    yield f"A product of the LM's size is {bfloat16_speedup(576):.2f} times as fast in bfloat16 on this machine "
    yield "(`sweep.lm.dtype`, which `model.dtype=auto` asks).\n"
    plain, ce = {}, {}
    for name in DTYPE_NAMES:
        bench = of_smollm2(name, 50)
        plain[name], _ = bench.ratios()
        ce[name] = _cross_entropy(bench.lm, bench.windows, BATCH)
    yield "| | one plain pass over 50 windows (P) | clean cross-entropy |"
    yield "|---|---|---|"
    for name in DTYPE_NAMES:
        yield f"| {name} | {plain[name]:.1f} s | {ce[name]:.4f} nats |"
    bench = of_smollm2("float32", 50)
    _by_mkl(bench.lm.model)
    plain["MKL"], _ = bench.ratios()
    ce["MKL"] = _cross_entropy(bench.lm, bench.windows, BATCH)
    yield f"| float32, by MKL as PyTorch has it | {plain['MKL']:.1f} s | {ce['MKL']:.4f} nats |"
    yield f"\nbfloat16 is {plain['float32'] / plain['bfloat16']:.2f} times as fast as float32, and float32 by oneDNN "
    yield f"{plain['MKL'] / plain['float32']:.2f} times as fast as by MKL (`sweep.lm.products`).\n"


def once() -> Iterator[str]:
    """Measure what is done once per layer and held-out set."""
    yield "## Once per layer and held-out set: clean, zero, mean\n"
    yield "100 windows. Windows that an ablation makes alike go through the LM once: all of them where all tokens are"
    yield "replaced, those that begin with the same token where first tokens are left alone as attention sinks.\n"
    yield "| dtype | tokens replaced | P | capture | clean, zero and mean | in all |"
    yield "|---|---|---|---|---|---|"
    for name, ordinary in (("float32", True), ("bfloat16", True), ("bfloat16", False)):
        bench = of_smollm2(name, 100, ordinary=ordinary)
        plain, r = bench.ratios(1, capture=bench.capture, once=bench.once)
        both = f"{r['capture']:.2f} P | {r['once']:.2f} P | {r['capture'] + r['once']:.2f} P"
        yield f"| {name} | {'ordinary' if ordinary else 'all'} | {plain:.1f} s | {both} |"
    yield ""


READ_COLUMNS = "1 SAE, 1 reading | 1 SAE, 4 readings | 4 SAEs, 1 reading | each further reading | each further SAE |"


def _read(bench: Bench) -> str:
    """Return the cells of READ_COLUMNS, and before them P."""
    bench.once()
    plain, r = bench.ratios(one=lambda: bench.read(1), four=lambda: bench.read(4), saes=lambda: bench.read(1, saes=4))
    further, other = ((r[name] - r["one"]) / 3 for name in ("four", "saes"))
    return (
        f"{plain:.1f} s | {r['one']:.2f} P | {r['four']:.2f} P | {r['saes']:.2f} P | {further:.2f} P | {other:.2f} P |"
    )


def readings() -> Iterator[str]:
    """Measure what readings cost, by their number and by SAEs, windows and layers."""
    yield "## Readings\n"
    yield "All that measuring takes, over P; the least of two rounds. Clean logits are made anew, or read from disk."
    yield "The blocks above block 12 with the output layer are .66 of a whole pass (block 6: .82, 24: .34).\n"
    yield f"| dtype | layer | windows | clean logits | P | {READ_COLUMNS}"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    cases = [("float32", LAYER, 16, False), ("bfloat16", LAYER, 16, False), ("bfloat16", LAYER, 16, True)]
    cases += [("bfloat16", LAYER, 48, False), ("bfloat16", 6, 16, False), ("bfloat16", 24, 16, False)]
    for name, layer, windows, kept in cases:
        with TemporaryDirectory() as folder:
            cells = _read(of_smollm2(name, windows, layer, logits=Path(folder) if kept else None))
        yield f"| {name} | {layer} | {windows} | {'kept' if kept else 'made'} | {cells}"
    yield ""


def vocabulary() -> Iterator[str]:
    """Measure what readings cost by the size of the vocabulary, on LMs of SmolLM2's shape with random weights."""
    yield "## Vocabulary\n"
    yield f"LMs of SmolLM2's shape with random weights, after block {LAYER}, bfloat16, 16 windows.\n"
    yield f"| vocabulary | once (clean, zero, mean) | P | {READ_COLUMNS}"
    yield "|---|---|---|---|---|---|---|---|"
    shape = AutoConfig.from_pretrained(smollm2().info.folder)
    for size in (4096, 49152, 151936):
        shape.vocab_size = size
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).eval().requires_grad_(False)
        lm = LM(model, "model.layers", shape.hidden_size, torch.device("cpu"), torch.arange(16).view(2, 8))
        bench = Bench(lm, _windows(16, size), LAYER)
        _, r = bench.ratios(1, once=bench.once)
        yield f"| {size:,} | {r['once']:.2f} P | {_read(bench)}"
    yield ""


def _key(tokens: int) -> CacheKey:
    return CacheKey("lm", "auto", LAYER, "resid_post", "text", WINDOW, "none", tokens, "float16", 0)


def _windows(count: int, vocabulary: int = 40_000) -> Windows:
    tokens = np.random.default_rng(0).integers(0, vocabulary, (count, WINDOW))
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
    bench = Bench(lm, held_out_of(job), 1)
    plain, r = bench.ratios(once=bench.once)
    yield f"P is {plain:.2f} s; clean, zero and mean take {r['once']:.2f} P (the clean pass is remembered).\n"
    yield f"| P | {READ_COLUMNS}"
    yield "|---|---|---|---|---|---|"
    yield f"| {_read(bench)}\n"


def of_sae_lens() -> Iterator[str]:
    """Compare with the evaluation of SAELens (extra `bench`), which measures one SAE at a time."""
    try:
        from sae_lens.evals import get_recons_loss
        from sae_lens.load_model import HookedProxyLM
        from sae_lens.training.activation_scaler import ActivationScaler
    except ImportError:
        return
    job, hook = smollm2(), f"model.layers.{LAYER}"
    bench = of_smollm2("float32", 16)
    sae = Expander(8 * bench.lm.d_model, 7, 32).build(bench.lm.d_model, seed=0)
    theirs, found = _in_sae_lens(sae, hook), list[dict[str, torch.Tensor]]()
    plain, r = bench.ratios(once=bench.once, one=lambda: bench.read(1), four=lambda: bench.read(1, saes=4))
    proxy = HookedProxyLM(loaded("float32").model, tokenizer_of(job), hook_names=[hook])

    def evaluate() -> None:
        with torch.inference_mode():
            for part in torch.from_numpy(bench.windows.tokens).split(BATCH):
                found.append(
                    get_recons_loss(theirs, proxy, ActivationScaler(), part, compute_kl=True, compute_ce_loss=True)
                )

    _, peer = bench.ratios(sae_lens=evaluate)
    reading = Reading(sae, "encoder", bench.base, "all_tokens")
    measure_together(bench.clean, [ReadingRequest([reading], lambda *_: None)])
    own, p = reading.result()["metrics"], peer["sae_lens"]
    yield "## Beside SAELens\n"
    yield "`sae_lens.evals.get_recons_loss` (cross-entropy and KL of the SAE and of zero ablation) on an untrained"
    yield f"expander of d=7, made dense and rebuilt as its TopKSAE; 16 windows, float32, P is {plain:.1f} s.\n"
    yield "| work | here | SAELens | SAELens / here |"
    yield "|---|---|---|---|"
    for name, ours, its in (("1 SAE", r["once"] + r["one"], p), ("4 SAEs", r["once"] + r["four"], 4 * p)):
        yield f"| {name}, clean and ablated passes included | {ours:.2f} P | {its:.2f} P | {its / ours:.1f} |"
    further = (r["four"] - r["one"]) / 3
    yield f"| each further SAE | {further:.2f} P | {p:.2f} P | {p / further:.1f} |"
    yield f"\nIts zero ablation replaces all tokens: {float(found[0]['ce_loss_with_ablation'].mean()):.4f} nats, here "
    ce = float(found[0]["ce_loss_with_sae"].mean())
    yield f"{bench.base.ce_zero:.4f}; with the SAE {ce:.4f} and {own['ce_sae']:.4f}.\n"


def _in_sae_lens(sae: SAE, hook: str):
    """Return the SAE as a TopKSAE of SAELens."""
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    atoms = densify(sae.dictionary.unit_values().detach(), sae.dictionary.support, sae.dictionary.d_in)
    n_latents, d_in = atoms.shape
    config = TopKSAEConfig(
        d_in=d_in, d_sae=n_latents, k=sae.k, apply_b_dec_to_input=True, metadata=SAEMetadata(hook_name=hook)
    )
    theirs = TopKSAE(config)
    state = {"W_dec": atoms, "W_enc": atoms.T, "b_dec": sae.b_dec.detach(), "b_enc": torch.zeros(n_latents)}
    theirs.load_state_dict(state)
    return theirs.requires_grad_(False)


PARTS = {
    "dtype": dtype,
    "pass": lm_pass,
    "resume": resume,
    "once": once,
    "readings": readings,
    "vocabulary": vocabulary,
    "embedded": embedded,
    "sae_lens": of_sae_lens,
}
HEAD = f"""# What the LM costs

`make bench-lm`, {os.cpu_count()} CPU cores, torch {torch.__version__}. P is one plain forward pass of the whole LM over
the same windows, in the same dtype and run.

"""


def main(names: list[str]) -> None:
    """Measure the parts of these names, or all, and replace their sections of the page."""
    done = sections(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or PARTS:
        lines = []
        for line in PARTS[name]():
            print(line, flush=True)
            lines.append(line)
        done |= sections("\n".join(lines))
        RESULTS.write_text(HEAD + "\n".join(done.values()))


if __name__ == "__main__":
    prepare_process()
    torch.set_num_threads(2)
    main(sys.argv[1:])
