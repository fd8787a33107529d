"""`python -m sweep.compress sae=PATH ratio=8`: make an SAE smaller, with as little loss as can be found."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sae_core.arms import Imported
from sae_core.arms.compressed import OWN
from sae_core.io import WEIGHTS_FILE
from sweep.jobs.key_values import check_free, finished_run
from sweep.jobs.overrides import key_of, quoted
from sweep.launch import command, run_alone
from sweep.launch import main as sweep
from sweep.shrink.cells import BITS, OWN_BITS, RATES, fitting
from sweep.shrink.chosen import best_of, hand_out
from sweep.shrink.original import Original, latents_of_use, original
from sweep.store.hashes import file_hash, short_hash
from sweep.store.records import WEIGHTS, iterate_records, run_folder

USAGE = """python -m sweep.compress sae=PATH|run=ID ratio=8|bytes=100000 [out=DIR] [trials=12] [SETTING=VALUE ...]

  sae=PATH       the folder, or the file of the weights, of an SAE of SAELens, sparsify or dictionary_learning, or ours
  run=ID         the SAE of a finished run in its place
  ratio=, bytes= how many times smaller its file shall be, or how many bytes it may have at most
  out=DIR        the folder for the smaller SAE; by default compressed/NAME-BYTES
  survived=0.9   the least share of latents that shall stay what they were, that is correlate with it by .9 or more, so
                 that labels still hold; 0 looks at the LM's cross-entropy alone
  trials=12      how many sizes, bits and readings are tried; asked for again with more, the search goes on, and the
                 best of all takes the place of the one chosen before
  SETTING=VALUE  any setting of python -m sweep: model=, layer= and corpus= that the SAE is of, k=, runs_dir=,
                 cache_dir=, train.steps=, train.lr=, launch.workers=, eval.probing=, ...; sae.format=,
                 sae.allow_pickle= and sae.check_model= are of the SAE that is read, and sae.of.encoder=topk, say,
                 settles what is else searched

It measures the SAE, searches for the smaller one that preserves most of the LM's cross-entropy, and writes that one,
the table of which latent is which, and a figure of all that was tried."""

_OWN = ("sae", "run", "ratio", "bytes", "out", "trials", "survived")
_SETTLED = ("d", "n", "sae.bits", "budget_bytes", "plan")  # what the search decides, or has no use for
_DEFAULT_LM = "embedded"
_STEPS = 1000  # of the training that follows; no dead latent is re-aimed in it


class Asked(NamedTuple):
    """The command's words, sorted by what they are for."""

    path: Path
    own: dict[str, str]
    settings: list[str]  # for python -m sweep

    def setting(self, key: str, default: str) -> str:
        """Return the value of a setting that is given, else the default."""
        return next((word.split("=", 1)[1] for word in self.settings if key_of(word) == key), default)


@command(USAGE)
def main(arguments: list[str]) -> int:
    """Make the SAE smaller that is named, and say what was found. Return the exit code: 0 if all went well."""
    asked = _asked(arguments)
    if "out" in asked.own:
        _check_out(Path(asked.own["out"]), asked)
    name = f"compress-{short_hash(str(asked.path.resolve()), sorted(asked.settings))}"
    where = _with_layer(asked)
    own = [word for word in where if not key_of(word).startswith("sae.of.")]
    source = original([f"sae.path={quoted(str(asked.path))}", *own], name, run_alone)
    budget = _budget(asked.own, source)
    out = Path(asked.own.get("out", f"compressed/{asked.path.stem}-{budget}"))
    if "out" not in asked.own:
        _check_out(out, asked)
    study = f"{name}-{budget}"
    _search(asked, [_of_the_smaller(word) for word in where], source, budget, study)
    folder = source.job.runs_dir / "studies" / study
    least = float(asked.own.get("survived", "0.9"))
    hand_out(best_of(folder, source.job.runs_dir, least, source.record), source, folder, out)
    return 0


def _asked(arguments: Sequence[str]) -> Asked:
    """Sort the command's words. Raises ValueError for one that is wrong, missing or settled."""
    own: dict[str, str] = {}
    settings: list[str] = []
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ValueError(f"{word} is not KEY=VALUE; python -m sweep.compress --help shows what can be given")
        if key in _SETTLED:
            raise ValueError(f"{key} is what the search decides; bytes= or ratio= limits it")
        if key not in _OWN:
            settings.append(word)
        elif key in own:
            raise ValueError(f"{key}= is given twice")
        else:
            own[key] = value
    for pair in (("sae", "run"), ("ratio", "bytes")):
        if sum(key in own for key in pair) != 1:
            raise ValueError(f"give {pair[0]}= or {pair[1]}=, one of both")
    try:
        fits = 0 <= float(own.get("survived", "0")) <= 1
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"survived={own['survived']} must be a number in 0..1")
    for key in ("trials", "bytes"):
        if key in own and not (own[key].isdecimal() and int(own[key]) > 0):
            raise ValueError(f"{key}={own[key]} must be a whole number of at least 1")
    asked = Asked(Path(own.get("sae", "")).expanduser(), own, settings)
    if "run" in own:
        runs_dir = Path(asked.setting("runs_dir", "runs")).expanduser()
        finished_run(own["run"], runs_dir)
        asked = asked._replace(path=run_folder(runs_dir, own["run"]))
    return asked


def _check_out(out: Path, asked: Asked) -> None:
    """Raise ValueError where `out` holds an SAE, unless an earlier search chose it among runs that are still there."""
    runs_dir = Path(asked.setting("runs_dir", "runs")).expanduser()
    if not (out / WEIGHTS_FILE).is_file() or not runs_dir.is_dir():
        return check_free(out)
    held = file_hash(out / WEIGHTS_FILE)
    smaller = (record for _, record in iterate_records(runs_dir) if record and record.get("survival"))
    if not any(record.get(WEIGHTS) == held for record in smaller):
        check_free(out)


def _with_layer(asked: Asked) -> list[str]:
    """Return the settings, with the layer that the SAE's files name unless one is given.

    Raises:
        ValueError: the SAE cannot be read, or is of another LM than the default one, and no LM is given.
    """
    about = Imported(32, str(asked.path)).about
    given = {key_of(word).split(".")[0] for word in asked.settings}
    if about.model not in (None, _DEFAULT_LM) and "model" not in given:
        raise ValueError(f"the SAE is of the LM {about.model}: say which it is here, as in model={about.model}")
    return [*asked.settings, *([f"layer={about.layer}"] if about.layer is not None and "layer" not in given else [])]


def _budget(own: dict[str, str], source: Original) -> int:
    """Return the most bytes that the smaller SAE's file may have."""
    if "bytes" in own:
        return int(own["bytes"])
    try:
        ratio = float(own["ratio"])
    except ValueError:
        ratio = 0.0
    if not 1 < ratio < float("inf"):
        raise ValueError(f"ratio={own['ratio']} must be a number above 1")
    return int(source.file_bytes / ratio)


def _search(asked: Asked, where: list[str], source: Original, budget: int, study: str) -> None:
    """Search for the best SAE of at most `budget` bytes, by the sweeper of searches."""
    n, k = latents_of_use(source), source.k
    cells = fitting(source.arm, n, k, budget)
    print(f"{n} of {source.arm.header.n_latents} latents are kept, k={k}; at most {budget:,} bytes", file=sys.stderr)
    given = {key_of(word): word.split("=", 1)[1] for word in where}
    own = given.get("sae.of.encoder", OWN) == OWN and OWN in cells.readings
    if given.get("sae.of.encoder") == OWN:
        if not own:
            why = "the SAE has no encoder with a row of weights for each latent, or not one that fits"
            raise ValueError(f"sae.of.encoder={OWN} cannot be kept: {why}")
        cells = cells.of_dense_atoms()
    steps = asked.setting("train.steps", str(_STEPS))
    aims = "[ce_recovered]" if asked.own.get("survived") == "0" else "[ce_recovered,survived]"
    searched = {
        "n": _choice(cells.latents),
        "d": _choice(cells.degrees),
        "sae.bits": _choice(OWN_BITS if own else BITS),
        "sae.of.encoder": _choice(cells.readings),
        **({"sae.encoder_bits": _choice(OWN_BITS)} if own else {}),
        "sae.of.basis": _choice(cells.bases),
        "sae.of.support": _choice(cells.supports),
        "train.lr": _choice(RATES),
        "train.steps": steps,
        "train.resample_min_steps": str(int(float(steps)) + 1),
        "k": str(k),
        "hydra.sweeper.objectives": aims,
    }
    sys.argv[1:] = [
        "-m",
        "hydra/sweeper=optuna_frontier",
        f"hydra.sweeper.n_trials={asked.own.get('trials', '12')}",
        f"hydra.sweeper.study_name={study}",
        f"hydra.sweeper.storage={quoted(str(source.job.runs_dir / 'studies' / f'{study}.journal'))}",
        "hydra.sweeper.first=[" + ",".join(map(quoted, _without(cells.first, given))) + "]",
        f"budget_bytes={budget}",
        "sae=compressed",
        f"sae.of.of.path={quoted(str(asked.path))}",
        *(f"{key}={value}" for key, value in searched.items() if key not in given),
        *where,
    ]
    sweep()


def _of_the_smaller(word: str) -> str:
    """Return a setting of the SAE that is read, such as `sae.format=saelens`, as one of what is made of it."""
    reads = key_of(word) in ("sae.format", "sae.allow_pickle", "sae.check_model")
    return f"sae.of.of.{word.removeprefix('sae.')}" if reads else word


def _without(cells: Sequence[str], given: Mapping[str, str]) -> list[str]:
    """Return cells without the keys that the command settles, each once.

    Of a reading that it settles those of other readings are left out, where there are any of that one.
    """
    parts = [cell.split() for cell in cells]
    if reading := given.get("sae.of.encoder"):
        alike = [words for words in parts if f"sae.of.encoder={reading}" in words]
        parts = alike or [words for words in parts if f"sae.of.encoder={OWN}" not in words]
    return list(dict.fromkeys(" ".join(word for word in words if key_of(word) not in given) for words in parts))


def _choice(values: Sequence[object]) -> str:
    """Return values to search as an override has them, also where there is one alone."""
    return f"choice({','.join(map(str, values))})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
