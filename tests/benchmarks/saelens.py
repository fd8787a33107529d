"""Load one SAE into SAELens in its sparse form and in its dense one: what each holds. Write the table of results.

    python -m tests.benchmarks.saelens

An untrained expander, saved by `sae_core.save`, by SAELens from its sparse form, and as the dense export. Each row runs
in a process of its own that has loaded a small SAE in the same way before, so that what is imported does not count.
Memory is the growth of the resident size: what stays once the SAE has been used (safetensors maps files into memory, so
that a dense one takes nothing before), and the peak while 64 tokens are encoded and decoded. Of that the matrix of
codes, 64 * n float32 numbers, is what SAELens' interface asks for.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from sae_core import io
from sae_core.arms import Expander
from sae_core.formats import export
from sweep.machine.process import forget_peak_memory, peak_memory

SIZES = [(256, 131072), (576, 131072)]
SMALL = (256, 1024)
DEGREE, K, TOKENS, ROUNDS = 7, 32, 64, 5
FORMS = {
    "sparse": "`sae_core.formats.saelens.load` of our file",
    "resaved": "SAELens' `load_from_disk` of the sparse form that it saved",
    "dense": "SAELens' `load_from_disk` of the dense export",
}
RESULTS = Path(__file__).parent / "results" / "saelens.md"


def write(folder: Path, d_in: int, n_latents: int) -> None:
    """Save an expander in all forms."""
    from sae_core.formats.saelens import load

    sae = Expander(n_latents, DEGREE, K).build(d_in, seed=0).eval()
    io.save(sae, folder / "sparse")
    load(folder / "sparse").save_model(folder / "resaved")
    export(sae, "saelens", folder / "dense")


def read(folder: Path, form: str) -> Any:
    import sae_lens  # type: ignore[import-not-found]

    from sae_core.formats.saelens import load

    return load(folder / form) if form == "sparse" else sae_lens.SAE.load_from_disk(folder / form)


def resident() -> int:
    """Return the bytes that this process has in memory."""
    found = re.search(r"^VmRSS:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, "Linux says it"
    return 1024 * int(found[1])


@torch.no_grad()
def measure(folder: Path, small: Path, form: str) -> dict[str, float]:
    """Return what the SAE of a folder takes in this process: bytes, and seconds for a batch."""
    torch.set_num_threads(1)
    warm = read(small, form)
    warm(torch.zeros(TOKENS, warm.cfg.d_in))
    del warm
    gc.collect()
    before = resident()
    forget_peak_memory()
    sae = read(folder, form)
    h = torch.randn(TOKENS, sae.cfg.d_in, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        sae.decode(sae.encode(h))
        times.append(time.process_time() - started)
    gc.collect()
    peak, holds = peak_memory(), resident()
    assert peak is not None, "Linux says it"
    found = {"holds": holds - before, "peak": peak - before}
    return {**found, "seconds": sorted(times)[ROUNDS // 2]}


def _in_a_process(*arguments: str | Path) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.saelens", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _rows(root: Path, d_in: int, n_latents: int) -> list[str]:
    folder = root / f"{d_in}-{n_latents}"
    _in_a_process("write", folder, d_in, n_latents)
    found = {}
    for form in FORMS:
        done = _in_a_process("measure", folder, root / f"{SMALL[0]}-{SMALL[1]}", form)
        found[form] = json.loads(done.splitlines()[-1])
        found[form]["file"] = sum(file.stat().st_size for file in (folder / form).glob("*.safetensors"))
    rows = []
    for form, values in found.items():
        mib = [f"{values[key] / 2**20:.1f}" for key in ("file", "holds", "peak")]
        share = values["holds"] / found["dense"]["holds"]
        cells = [str(d_in), str(n_latents), FORMS[form], *mib, f"{share:.3f}", f"{1000 * values['seconds']:.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    version = importlib.metadata.version("sae-lens")
    heads = ["m", "n", "loaded by", "file, MiB", "holds, MiB", "peak, MiB", "holds, share of dense"]
    heads.append(f"{TOKENS} tokens, ms")
    lines = ["# Our sparse file in SAELens", ""]
    lines.append(
        f"`python -m tests.benchmarks.saelens`, one core, SAELens {version}, torch {torch.__version__}, d={DEGREE}."
    )
    lines += [f"The matrix of codes of {TOKENS} tokens alone takes {TOKENS * SIZES[0][1] * 4 / 2**20:.0f} MiB.", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        _in_a_process("write", Path(folder) / f"{SMALL[0]}-{SMALL[1]}", *SMALL)
        for size in SIZES:
            lines += _rows(Path(folder), *size)
            print("\n".join(lines[-len(FORMS) :]), flush=True)
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder, d_in, n_latents]:
            write(Path(folder), int(d_in), int(n_latents))
        case ["measure", folder, small, form]:
            print(json.dumps(measure(Path(folder), Path(small), form)))
        case _:
            main()
