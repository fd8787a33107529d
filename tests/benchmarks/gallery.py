"""Take SAEs that SAELens and sparsify trained themselves through import, measurement and export. Write the results.

    python -m tests.benchmarks.gallery [ARCHITECTURE ...]

Each library trains small SAEs of the embedded LM by its own runner (`tests.benchmarks.trainers`). What is read here is
then held against the library's own forward pass: on held-out activations, and in the cross-entropy that the LM keeps.

A further step is one more function in STEPS. It gets an SAE's folder, with what the steps before it have found, and
returns what it adds to the SAE's row.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from sae_core import io
from sae_core.formats import FormatError, export, load
from sweep.store.records import iterate_records
from tests.benchmarks.lens_lm import embedded
from tests.benchmarks.trainers import GALLERY, LAYER, LOADERS, Sizes, Trained, held_out, text

RESULTS = Path(__file__).parent / "results" / "gallery.md"
WINDOWS = 50
RATIO, TRIALS = 8, 6  # of the SAEs that are made smaller
Row = dict[str, Any]


class Place(NamedTuple):
    """Where the steps of one SAE write, and the settings of the sweep that measures it."""

    folder: Path
    settings: tuple[str, ...]  # of the sweep
    held_out: torch.Tensor  # (windows, tokens a window)


@torch.no_grad()
def hidden(windows: torch.Tensor) -> torch.Tensor:
    """The activations of the windows after the block that SAEs are of: (tokens, d_in)."""
    model, _ = embedded()
    return model(windows, output_hidden_states=True).hidden_states[LAYER + 1].flatten(0, 1)


@torch.no_grad()
def cross_entropy(windows: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor] | None = None) -> float:
    """Nats a token of transformers' own LM, with the output of the block as `forward` makes it of itself."""
    model, _ = embedded()

    def edit(module, inputs, output):
        first = output[0] if isinstance(output, tuple) else output
        made = forward(first.flatten(0, 1)).view_as(first)
        return (made, *output[1:]) if isinstance(output, tuple) else made

    handle = model.gpt_neox.layers[LAYER].register_forward_hook(edit) if forward else None
    logits = model(windows).logits
    if handle:
        handle.remove()
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten()))


class Difference(NamedTuple):
    """How far reconstructions are apart: ||found - expected|| / ||expected|| over all tokens but those at a tie."""

    rest: float
    ties: int  # tokens that are further apart: of two latents as good in float32, another one was picked


TIE = 1e-4


def difference(found: torch.Tensor, expected: torch.Tensor) -> Difference:
    """Compare reconstructions (tokens, d_in)."""
    ties = (found - expected).norm(dim=1) > TIE * expected.norm(dim=1)
    return Difference(float((found - expected)[~ties].norm() / expected[~ties].norm()), int(ties.sum()))


def call(*arguments: str) -> None:
    """Run a command of the project."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **_OFFLINE})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")


_OFFLINE = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}


def imported(trained: Trained, place: Place, row: Row) -> Row:
    """Read it, and hold the reconstructions against the library's."""
    h = hidden(place.held_out)
    with torch.no_grad():
        found = load(trained.folder)(h)
    theirs = trained.forward(h)
    fvu = (h - theirs).square().sum() / (h - h.mean(0)).square().sum()
    return {
        "l0": float((found.codes != 0).sum(1).float().mean()),
        "FVU": float(fvu),
        "reading": difference(found.reconstruction, theirs),
    }


def measured(trained: Trained, place: Place, row: Row) -> Row:
    """Run `sae=imported` on it, and find CE recovered once more with the library's own forward pass in the LM."""
    runs = place.folder / "runs"
    call("sweep", *place.settings, "sae=imported", f"sae.path={trained.folder}", f"runs_dir={runs}")
    ((_, record),) = iterate_records(runs)
    clean, zero = (cross_entropy(place.held_out, forward) for forward in (None, torch.zeros_like))
    theirs = (zero - cross_entropy(place.held_out, trained.forward)) / (zero - clean)
    return {
        "CE recovered": record["metrics"]["ce_recovered"],
        "by the library": theirs,
        "mean ablation": record["metrics"]["ce_recovered_mean"],
        "run": record["run_id"],
    }


def exported(trained: Trained, place: Place, row: Row) -> Row:
    """Export the run to the library's format again, load it there, and hold it against the SAE that was trained."""
    out, runs = place.folder / "out" / f"layers.{LAYER}", place.folder / "runs"
    call("sweep.export", f"run={row['run']}", f"format={trained.library}", f"out={out}", f"runs_dir={runs}")
    h = hidden(place.held_out)
    return {"exported": difference(LOADERS[trained.library](out)(h), trained.forward(h))}


def kept(trained: Trained, place: Place, row: Row) -> Row:
    """Load the run in SAELens as our own file is (`sae_core.formats.saelens`), and hold it against the same SAE."""
    from sae_core.formats.saelens import ExpanderSAE

    run, h = io.load(place.folder / "runs" / row["run"]), hidden(place.held_out)
    with torch.no_grad():
        return {"as our file": difference(ExpanderSAE.of(run)(h), trained.forward(h))}


def smaller(trained: Trained, place: Place, row: Row) -> Row:
    """Make it RATIO times smaller (`python -m sweep.compress`) with its own encoder kept, export that one, and hold the
    library's own reading of it against ours. An SAE that has no encoder becomes one that is read by TopK."""
    runs, small, out = (place.folder / name for name in ("runs", "small", f"small-out/layers.{LAYER}"))
    reading = "topk" if trained.architecture == "matching_pursuit" else "own"  # readings that every library has
    limits = (f"ratio={RATIO}", f"trials={TRIALS}", f"sae.of.encoder={reading}")
    given = [word for word in place.settings if not word.startswith("corpus.train_tokens=")]
    call("sweep.compress", f"sae={trained.folder}", *limits, *given, f"runs_dir={runs}", f"out={small}")
    weights = (small / io.WEIGHTS_FILE).read_bytes()
    made = next(each for _, each in iterate_records(runs) if _has(runs / each["run_id"], weights))
    export(io.load(small), trained.library, out)
    h = hidden(place.held_out)
    with torch.no_grad():
        ours = io.load(small)(h).reconstruction
    return {
        "smaller": made["metrics"]["ce_recovered"],
        "made of": f"{made['sizes']['n_latents']} x {made['sizes']['degree']}, {_bits(made['storage'])} bits",
        "smaller l0": made["metrics"]["l0"],
        "survived": made["survival"]["survived"],
        "smaller exported": difference(LOADERS[trained.library](out)(h), ours),
    }


def _bits(storage: dict[str, float]) -> str:
    """The bits of a decoder value and of an encoder weight."""
    return f"{storage['value_bits']:g} and {storage['encoder_bits']:g}"


def _has(folder: Path, weights: bytes) -> bool:
    file = folder / io.WEIGHTS_FILE
    return file.exists() and file.read_bytes() == weights


STEPS: tuple[Callable[[Trained, Place, Row], Row], ...] = (imported, measured, exported, kept, smaller)


def taken_through(trained: Trained, place: Place) -> Row:
    """Take an SAE through all steps. Where it cannot be read, the row has the reason in place of the rest."""
    row: Row = {"library": trained.library, "architecture": trained.architecture}
    try:
        for step in STEPS:
            row |= step(trained, place, row)
    except FormatError as error:
        row["refused"] = str(error).removeprefix(f"{trained.folder}/")
    return row


def settings(cache_dir: Path, windows: int = WINDOWS) -> tuple[str, ...]:
    """The arguments of the sweep: the embedded LM, its layer, and a pool that nothing is trained on."""
    measures = (f"eval.windows={windows}", "corpus.train_tokens=20000", f"layer={LAYER}")
    return ("model=embedded", *measures, f"cache_dir={cache_dir}", "threads=1", "launch.workers=1")


@cache
def version(library: str) -> str:
    name = {"saelens": "sae-lens", "sparsify": "eai-sparsify"}[library]
    return importlib.metadata.version(name)


def as_lines(rows: list[Row], seconds: list[float], sizes: Sizes) -> list[str]:
    """The page of results."""
    lines = ["# SAEs that other libraries trained", ""]
    versions = f"SAELens {version('saelens')}, sparsify {version('sparsify')}, torch {torch.__version__}"
    lines += [
        f"`python -m tests.benchmarks.gallery`, one core, {versions}.",
        f"Embedded LM after block {LAYER}, n={sizes.n_latents}, k={sizes.k} (where it is set); {sizes.tokens:,} tokens",
        f"of the standard library's source, {WINDOWS} held-out windows.",
        "",
        "Differences are ||ours - theirs|| / ||theirs|| over the reconstructions of the held-out tokens. In brackets is"
        " how",
        f"many tokens were left out because they differ by more than {TIE:.0e}: two latents tie there in float32.",
        "A smaller one keeps its own encoder, if it has one; bits are those of a decoder value and an encoder weight.",
        "",
    ]
    heads = ["library", "architecture", "trained in, s", "l0", "FVU", "difference as read", "CE recovered (zero)"]
    heads += ["with its own forward", "CE recovered (mean)", "difference exported again", "difference as our file"]
    heads += [f"{RATIO} times smaller: latents x values", "l0", "CE recovered", "latents that survived", "exported"]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row, took in zip(rows, seconds, strict=True):
        lines.append(f"| {' | '.join(_cells(row, took, len(heads)))} |")
    return lines


def _cells(row: Row, took: float, count: int) -> list[str]:
    cells = [row["library"], row["architecture"], f"{took:.0f}"]
    if "refused" in row:
        return [*cells, f"refused: {row['refused']}", *[""] * (count - len(cells) - 1)]
    cells += [f"{row['l0']:.1f}", f"{row['FVU']:.3f}", _said(row["reading"])]
    cells += [f"{row[name]:.4f}" for name in ("CE recovered", "by the library", "mean ablation")]
    cells += [_said(row["exported"]), _said(row["as our file"]), row["made of"]]
    cells += [f"{row['smaller l0']:.1f}", f"{row['smaller']:.4f}", f"{row['survived']:.3f}"]
    return [*cells, _said(row["smaller exported"])]


def _said(found: Difference) -> str:
    return f"{found.rest:.0e}" + (f" ({found.ties})" if found.ties else "")


def main(only: list[str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(_OFFLINE)
    sizes, rows, seconds = Sizes(), list[Row](), list[float]()
    windows, measured_on = text(tokens=sizes.tokens), held_out(windows=WINDOWS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for train, architecture in GALLERY:
            if only and architecture not in only:
                continue
            name = f"{train.__name__}-{architecture}"
            started = time.perf_counter()
            trained = train(architecture, root / name, sizes, windows)
            seconds.append(time.perf_counter() - started)
            place = Place(root / f"{name}-steps", settings(root / "cache"), measured_on)
            rows.append(taken_through(trained, place))
            print(as_lines(rows, seconds, sizes)[-1], flush=True)
    if not only:
        RESULTS.write_text("\n".join(as_lines(rows, seconds, sizes)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
