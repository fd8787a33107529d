"""Measure what launching costs: time outside the runs' work, asking again, workers against threads, shared passes.

    python -m tests.benchmarks.sweeps [overhead|again|workers|share ...]     about 15 minutes in all on two cores

Writes tests/benchmarks/results/sweeps.md. Each comparison runs its sides in turn, twice, and keeps the faster of each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from sae_core.arms import Arm, Expander
from sweep.store.records import iterate_records, write_record
from sweep.train.config import TrainConfig
from sweep.train.loop import training
from sweep.train.streams import Stream, drive

RESULTS = Path(__file__).parent / "results" / "sweeps.md"
CACHE = Path(".cache/activations").absolute()
SMOKE = ["n=2048", "k=32", "train.steps=100", "eval.windows=20"]
STAGES = ("activations", "training", "evaluation")


def sweep(folder: Path, *arguments: str) -> float:
    """Return the seconds of a multirun whose runs go to `folder`."""
    command = [sys.executable, "-m", "sweep", "-m", f"runs_dir={folder}", f"cache_dir={CACHE}", *arguments]
    started = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stdout + ended.stderr)
    return time.perf_counter() - started


def records(folder: Path) -> list[dict]:
    """Return the records of all runs in `folder`."""
    return [record for _, record in iterate_records(folder) if record]


def overhead(folder: Path) -> Iterator[str]:
    """Measure which share of two workers' wall time over 200 smoke runs was no stage of a run."""
    wall = sweep(folder, "d=range(3,53)", "seed=0,1,2,3", *SMOKE, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    made = records(folder)
    inside = {stage: sum(record["timings"][stage] for record in made) for stage in STAGES}
    outside = 1 - sum(inside.values()) / (2 * wall)
    yield "## Time outside LM pass, training and evaluation\n"
    yield f"{len(made)} smoke runs ({' '.join(SMOKE)}, tracked offline), two workers on two cores: {wall:.0f} s."
    yield ", ".join(f"{stage} {seconds / 2:.0f} s" for stage, seconds in inside.items()) + " of each worker's time; "
    yield f"**{outside:.1%} outside them** (start, planning, building, tracking, records).\n"


def again(folder: Path) -> Iterator[str]:
    """Measure a sweep of 1,000 runs that are all finished: copies of one real record stand for them."""
    asked = ["d=range(1,101)", "k=2,4,8,16,32", "seed=0,1", "n=512", "train.steps=50", "eval.windows=4"]
    sweep(folder, "d=3", "k=32", *asked[3:])
    (one,) = records(folder)
    _finish(folder, one, asked)
    seconds = [sweep(folder, *asked) for _ in range(3)]
    yield "## Asking again\n"
    each = ", ".join(f"{s:.1f}" for s in seconds)
    yield f"A finished sweep of 1,000 runs, asked for again: **{min(seconds):.1f} s** (of {each}).\n"


def _finish(folder: Path, one: dict, asked: list[str]) -> None:
    """Write a record for every run of the sweep, as its plan names them."""
    plan = [sys.executable, "-m", "sweep", "-m", f"runs_dir={folder}", f"cache_dir={CACHE}", *asked, "plan=true"]
    wide = {**os.environ, "COLUMNS": "200"}
    listed = subprocess.run(plan, capture_output=True, text=True, check=True, env=wide).stdout
    ids = [line.split()[0] for line in listed.splitlines() if "expander" in line]
    assert len(ids) == 1000, len(ids)
    for run_id in ids:
        write_record(folder, {**one, "run_id": run_id})


def workers(folder: Path) -> Iterator[str]:
    """Compare two single-threaded workers with one of two threads, on runs like the main job's."""
    asked = ["sae=expander,dense_tied", "d=7,30", "k=32", "seed=0,1", "n=2048", "train.steps=2000"]
    sides = {
        "1 worker, 2 threads": ["threads=2", "hydra/launcher=basic"],
        "2 workers, 1 thread each": ["threads=1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(2):
        for name, side in sides.items():
            times[name].append(sweep(folder / f"{side[0]}-{turn}".replace("=", "-"), *asked, *side))
    best = {name: min(seconds) for name, seconds in times.items()}
    one, two = best.values()
    yield "## Workers against threads\n"
    yield "6 runs like the main job's (expander d=7, 30 and dense_tied, two seeds, 2,000 steps), start included: "
    times_taken = "; ".join(f"{name} {seconds:.0f} s" for name, seconds in best.items())
    yield f"{times_taken}: **{one / two:.2f} times as fast**.\n"


def share(folder: Path) -> Iterator[str]:
    """Compare training four SAEs one after the other with training them together on one pass."""
    yield "## SAEs that share a pass\n"
    yield "Training alone, seconds one after the other / together on one pass over the same batches:\n"
    yield "| SAEs | pool | one after the other | together | times as fast |"
    yield "|---|---|---|---|---|"
    shapes = [("embedded LM's size", 256, 2048, 100_000, 400, 256), ("large", 2048, 16384, 100_000, 40, 1024)]
    for name, d_in, n, tokens, steps, batch in shapes:
        rows = Rows(folder / f"{d_in}.bin", tokens, d_in)
        arms = [Expander(n, degree, 32) for degree in (3, 7, 15, 30)]
        for pool, before in (("in memory", lambda: None), ("not in memory", rows.forget)):
            alone, together = _both(arms, rows, TrainConfig(steps=steps, batch_size=batch), before)
            saes, mib = f"4 expanders, {name}: m={d_in}, n={n}, batch {batch}", tokens * d_in * 2 >> 20
            yield f"| {saes} | {pool} ({mib} MiB) | {alone:.1f} | {together:.1f} | {alone / together:.2f} |"
        rows.file.unlink()
    yield ""


class Rows:
    """A pool of random rows in a file that is read by memory map, as the cache's pools are."""

    def __init__(self, file: Path, tokens: int, d_in: int):
        self.file, self.tokens = file, tokens
        file.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        with open(file, "wb") as stream:
            for _ in range(0, tokens, 10_000):
                stream.write(rng.standard_normal((10_000, d_in), dtype=np.float32).astype(np.float16).tobytes())
        self.map = np.memmap(file, np.float16, "r", shape=(tokens, d_in))

    def __call__(self, indices: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.map[indices])

    def forget(self) -> None:
        """Drop the file from the system's page cache."""
        shape = self.map.shape
        del self.map
        with open(self.file, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.map = np.memmap(self.file, np.float16, "r", shape=shape)


def _both(arms: Sequence[Arm], rows: Rows, config: TrainConfig, before: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds of training `arms` one after the other, and together; the best of two, taken in turn.

    Args:
        before: called before each reading of the pool.
    """

    def trainees():
        stream = Stream(rows, rows.tokens, 0, config.batch_size, torch.device("cpu"), config.steps)
        return [training(arm.build(rows.map.shape[1], 0), stream, 1.0, config) for arm in arms]

    def one_by_one():
        for trainee in trainees():
            before()
            drive([trainee])

    def together():
        before()
        drive(trainees())

    times = [(_seconds(one_by_one), _seconds(together)) for _ in range(2)]
    return min(t[0] for t in times), min(t[1] for t in times)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


PARTS = {"overhead": overhead, "again": again, "workers": workers, "share": share}


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a temporary folder, and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sweeps-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(names: list[str]) -> None:
    """Measure the parts of these names, or all, and replace their sections of the page."""
    done = sections(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or PARTS:
        with scratch() as folder:
            made = "\n".join(PARTS[name](folder))
        print(made)
        done |= sections(made)
    RESULTS.write_text(HEAD + "\n".join(done.values()))


def sections(text: str) -> dict[str, str]:
    """Return the sections of a page by their headings."""
    parts = ["## " + part for part in text.split("## ")[1:]]
    return {part.split("\n", 1)[0]: part.rstrip() + "\n" for part in parts}


HEAD = f"""# What launching costs

`python -m tests.benchmarks.sweeps`, {os.cpu_count()} CPU cores, torch {torch.__version__}.

"""

if __name__ == "__main__":
    torch.set_num_threads(2)
    main(sys.argv[1:])
