"""The best SAE of a search for a smaller one: its files, the table of its latents, and the figure of all tried."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sae_core import io
from sweep.run.survival import LATENTS
from sweep.shrink.original import Original
from sweep.store.human_size import human_size
from sweep.store.records import Record, read_record, run_folder
from sweep.study.report import TRIALS

TRIED = "tried.csv"  # the runs that the figure shows
LEAST_CE = 0.98  # share of the original's CE recovered that counts before latents do, where not enough of these survive
_RECOVERED = (("ce_recovered", "CE recovered, against zero ablation"), ("ce_recovered_mean", "against mean ablation"))


def best_of(study: Path, runs_dir: Path, least: float, before: Record | None) -> Record:
    """Return the record of the run that recovers most of the CE among those that keep enough of the latents.

    Where none keeps enough, it is the run that keeps the most among those that recover `LEAST_CE` of the CE that the
    original recovers, or among all where none does or the original was not measured.

    Args:
        study: the folder of a search, whose complete trials are looked at.
        least: the share of latents that must survive.
        before: the record of the original; None where it was not measured.

    Raises:
        ValueError: no trial is complete.
    """
    runs = {row["run_id"] for row in _trials(study) if row["state"] == "complete"}
    records = [record for run_id in sorted(runs) if (record := read_record(runs_dir, run_id)) is not None]
    if not records:
        raise ValueError(f"{study / TRIALS}: no smaller SAE could be trained")
    enough = [record for record in records if record["survival"]["survived"] >= least]
    if not enough:
        recovered = ((before or {}).get("metrics") or {}).get("ce_recovered") or 0.0
        faithful = [record for record in records if record["metrics"]["ce_recovered"] >= LEAST_CE * recovered]
        most = max(record["survival"]["survived"] for record in faithful or records)
        enough = [record for record in faithful or records if record["survival"]["survived"] == most]
        of = f" of those that recover {LEAST_CE:.0%} of the CE" if recovered and faithful else ""
        print(f"note: no SAE that was tried keeps {least:.0%} of the latents; the chosen one keeps the most{of}")
    return max(enough, key=lambda record: (record["metrics"]["ce_recovered"], -record["storage"]["artifact_bytes"]))


def hand_out(record: Record, source: Original, study: Path, out: Path) -> None:
    """Write the SAE of a run to `out` with its table of latents, and draw all that was tried, with the original."""
    runs_dir = source.job.runs_dir
    out.mkdir(parents=True, exist_ok=True)
    folder = run_folder(runs_dir, record["run_id"])
    for name in (io.WEIGHTS_FILE, io.CONFIG_FILE, LATENTS):
        shutil.copyfile(folder / name, out / name)
    for line in _said(record, source):
        print(line)
    print(f"{out}: {io.WEIGHTS_FILE}, {io.CONFIG_FILE}, and {LATENTS} with the number that each latent had")
    _draw(source, study, out, runs_dir)


def _said(record: Record, source: Original) -> list[str]:
    """Return lines that say how the SAE compares with the one that it was made of."""
    size, metrics, before = record["storage"]["artifact_bytes"], record["metrics"], source.record
    lines = [
        f"chosen: {record['title']} (run {record['run_id']})",
        f"  {human_size(size)} of {human_size(source.file_bytes)}, {source.file_bytes / size:.1f} times less",
    ]
    for key, words in _RECOVERED:
        if metrics.get(key) is not None:
            then = before["metrics"].get(key) if before else None
            kept = "" if not then else f" of {then:.4f}: {metrics[key] / then:.4f} of it"
            lines.append(f"  {words}: {metrics[key]:.4f}{kept}")
    found: dict[str, Any] = record["survival"]
    if found["below_90"] is not None:
        lines.append(
            f"  latents: {found['survived']:.1%} correlate with what they were by .9 or more (mean "
            f"{found['correlation']:.3f}); {found['silenced']:.1%} no longer fire, {found['removed']:.1%} were left out"
        )
    return lines


def _draw(source: Original, study: Path, out: Path, runs_dir: Path) -> None:
    """Draw what was tried in a process of its own, as figures come from records alone."""
    runs = [source.job.spec.run_id, *(row["run_id"] for row in _trials(study) if row["state"] == "complete")]
    tried = study / TRIED
    tried.write_text("\n".join(["run_id", *runs, ""]))
    words = ["compressed", "--runs", str(runs_dir), "--study", str(tried), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "analysis", *words], check=False)


def _trials(study: Path) -> list[dict[str, str]]:
    with open(study / TRIALS, newline="") as stream:
        return list(csv.DictReader(stream))
