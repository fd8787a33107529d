"""`python -m sweep.cut run=ID latents=512 out=DIR`: write the first latents of a run's SAE as an SAE of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from sae_core import io
from sae_core.prefixes import checked_part, cut, prefix_size
from sweep.jobs.key_values import check_free, finished_run, key_values
from sweep.launch import command
from sweep.store.records import run_folder

USAGE = """python -m sweep.cut run=ID latents=512 out=DIR [runs_dir=runs]

  run=ID         a finished run
  latents=512    how many of its latents, from the first on, or a share of them such as 1/4
  out=DIR        the folder for sae.safetensors and cfg.json; it must not hold an SAE yet"""

_NEEDED = {"run": "ID", "latents": "512", "out": "DIR"}


@command(USAGE)
def main(arguments: list[str]) -> int:
    """Cut the SAE that is named, and say what was written. Return the exit code: 0 if all went well."""
    given = key_values(arguments, _NEEDED, {"runs_dir": "runs"})
    runs_dir, out = Path(given.get("runs_dir", "runs")), Path(given["out"])
    finished_run(given["run"], runs_dir)
    check_free(out)
    sae, latents = io.load(run_folder(runs_dir, given["run"])), given["latents"]
    part = checked_part("latents", int(latents) if latents.isdecimal() else latents)
    n = sae.dictionary.n_latents
    size = prefix_size("latents", part, n)
    written = io.save(cut(sae, size), out, {"first_latents_of": given["run"]})
    print(f"{out}: the first {size} of {n} latents of {given['run']}, {written:,} bytes")
    if sae.prefixes and size not in sae.prefixes:
        trained = ", ".join(map(str, sae.prefixes))
        print(f"note: the prefixes that were trained to reconstruct by themselves have {trained} latents")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
