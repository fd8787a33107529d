"""`python -m sweep.cut run=ID latents=512 out=DIR`: write the first latents of a run's SAE as an SAE of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sae_core import io
from sae_core.prefixes import checked_part, cut, prefix_size
from sweep.jobs.recorded import has_an_sae
from sweep.launch import one_line_errors
from sweep.store.records import read_record, run_folder

USAGE = """python -m sweep.cut run=ID latents=512 out=DIR [runs_dir=runs]

  run=ID         a finished run
  latents=512    how many of its latents, from the first on, or a share of them such as 1/4
  out=DIR        the folder for sae.safetensors and cfg.json; it must not hold an SAE yet"""

_NEEDED = ("run", "latents", "out")


def main(arguments: list[str]) -> int:
    """Cut the SAE that is named, and say what was written. Return the exit code: 0 if all went well."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0 if arguments else 1
    os.environ.setdefault("HYDRA_FULL_ERROR", "0")
    with one_line_errors():
        given = _given(arguments)
        folder, out = _folder(given["run"], Path(given.get("runs_dir", "runs"))), Path(given["out"])
        for name in (io.WEIGHTS_FILE, io.CONFIG_FILE):
            if (out / name).exists():
                raise ValueError(f"out={out} holds an SAE already, which is not overwritten")
        sae, latents = io.load(folder), given["latents"]
        part = checked_part("latents", int(latents) if latents.isdecimal() else latents)
        n = sae.dictionary.n_latents
        size = prefix_size("latents", part, n)
        written = io.save(cut(sae, size), out, {"first_latents_of": given["run"]})
        print(f"{out}: the first {size} of {n} latents of {given['run']}, {written:,} bytes")
        if sae.prefixes and size not in sae.prefixes:
            trained = ", ".join(map(str, sae.prefixes))
            print(f"note: the prefixes that were trained to reconstruct by themselves have {trained} latents")
        return 0
    return 1


def _given(arguments: list[str]) -> dict[str, str]:
    """Return {key: value} of the arguments. Raise ValueError for one that is missing, unknown or twice there."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value or key not in (*_NEEDED, "runs_dir") or key in given:
            raise ValueError(f"{argument} must be one of run=ID, latents=512, out=DIR and runs_dir=runs, each once")
        given[key] = value
    for key in _NEEDED:
        if key not in given:
            raise ValueError(f"{key}= is missing: python -m sweep.cut run=ID latents=512 out=DIR")
    return given


def _folder(run_id: str, runs_dir: Path) -> Path:
    """Return the folder of a finished run. Raise ValueError where there is none of that id."""
    record = read_record(runs_dir, run_id) if run_id.isalnum() else None
    if record is None or not has_an_sae(record):
        raise ValueError(f"run={run_id}: no finished run of that id under {runs_dir} (runs_dir)")
    return run_folder(runs_dir, run_id)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
