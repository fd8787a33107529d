"""Probe a trained SAE's codes on labelled sets, and put the scores into its record."""

from __future__ import annotations

import json
import traceback
from contextlib import suppress
from typing import Any

import torch

from sae_core.inference import infer_by
from sae_core.sae import SAE
from sweep.activations.held_out import HeldOut
from sweep.corpus.documents import CorpusError
from sweep.jobs.job import Job
from sweep.measures.positions import Positions
from sweep.probing.scores import Items, Scores, code_scores, raw_scores
from sweep.probing.sets import Family
from sweep.run.loaded import family_of
from sweep.run.pools import ready_activations
from sweep.run.recording import log, one_line
from sweep.store.files import write_json
from sweep.store.hashes import short_hash
from sweep.store.progress import RunProgress
from sweep.store.records import Record, run_folder

_FORMAT = 1  # version of a remembered file


def probe(job: Job, sae: SAE, positions: Positions, record: Record, say: RunProgress) -> None:
    """Probe what `job` asks for and its record lacks. A family that fails leaves its error in the record."""
    for name, readings in job.unprobed(record).items():
        if not readings:
            continue
        found = record.setdefault("probing", {}).setdefault(name, {})
        found.pop("error", None)
        try:
            _probe_family(job, sae, name, readings, positions, found, say)
        except (CorpusError, ValueError, RuntimeError) as error:
            found["error"] = one_line(error)
            log(run_folder(job.runs_dir, job.spec.run_id), traceback.format_exc())


def _probe_family(
    job: Job,
    sae: SAE,
    name: str,
    readings: list[str],
    positions: Positions,
    found: dict[str, Any],
    say: RunProgress,
) -> None:
    say(f"probing: {name}")
    family = family_of(job, name)
    activations = ready_activations(job, sae.b_dec.device, family.windows, say)
    items = _items(family, activations, positions)
    found["raw"] = _raw_scores(job, items, positions)
    for reading in readings:
        say(f"probing: {name}, {reading}")
        found.setdefault("readings", {})[reading] = code_scores(infer_by(sae, reading), items)


def _items(family: Family, activations: HeldOut, positions: Positions) -> Items:
    tokens, real = torch.from_numpy(family.windows.tokens), torch.from_numpy(family.windows.mask())
    measured, _ = positions.among(tokens, real, activations.of(slice(None)))
    return Items(family, activations.of, measured.numpy())


def _raw_scores(job: Job, items: Items, positions: Positions) -> Scores:
    """Return the scores of the activations: measured once per layer and family, then read back."""
    lm = job.spec.activations.lm, job.model.dtype, job.axes["layer"]
    file = job.cache_dir / "probing" / f"{short_hash(_FORMAT, *lm, items.family.digest(), repr(positions))}.json"
    with suppress(OSError, ValueError):
        return json.loads(file.read_text())
    measured = raw_scores(items)
    with suppress(OSError):  # a full disk only costs the memory: they are measured again
        write_json(file, measured)
    return measured
