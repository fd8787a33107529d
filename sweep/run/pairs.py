"""Pairs of finished runs whose SAEs are compared: those that differ in a seed alone, and a rounded SAE's original.

What is found goes into the record of one of the two runs; the other run is named in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from sae_core.arms import Quantised
from sae_core.arms.recoded import RecodedArm
from sae_core.dictionary import Dictionary
from sae_core.sae import SAE
from sae_core.stability import ReadTokens, stability_measures
from sweep.activations.norms import norms_from
from sweep.jobs.job import Job
from sweep.jobs.spec import SEED_PARTS, RunSpec, Seeds
from sweep.machine.gpus import device_from
from sweep.measures.config import EvaluationError
from sweep.measures.measures import held_out_codes
from sweep.run.examine import rounding_between
from sweep.run.examine_samples import sample_codes
from sweep.run.finished import read_sae
from sweep.run.loaded import held_out_of, positions_of
from sweep.run.once import lock_of
from sweep.run.pools import Say, ready_clean_pass
from sweep.run.recording import failsafe_tracker
from sweep.store.records import Record, read_record, run_folder, write_record

ALL = "all"  # all seeds that an arm has differ


class Finished(NamedTuple):
    """A finished run."""

    job: Job
    record: Record

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.job.spec.run_id


class Pair(NamedTuple):
    """Two runs that differ in nothing but a seed; the record of the first is to keep what is found."""

    first: Finished
    second: Finished
    differs: str  # ALL, or the one thing whose seed differs: support, values, order

    @property
    def done(self) -> bool:
        """Whether the pair has been measured."""
        return self.second.run_id in self.first.record.get("stability", {})


class Read(NamedTuple):
    """A saved SAE's dictionary, and the codes that it finds of the held-out tokens."""

    sae: SAE
    tokens: ReadTokens

    @property
    def dictionary(self) -> Dictionary:
        return self.sae.dictionary

    @property
    def of_atoms(self) -> ReadTokens:
        """The codes of atoms alone, without those of coordinates that are always on, which stand behind them."""
        codes, indices, windows = self.tokens
        return ReadTokens(self.sae.of_atoms(codes), self.sae.of_atoms(indices), windows)


def seed_pairs(runs: Sequence[Finished]) -> list[Pair]:
    """Return every two runs that differ in all their seeds, or in one of them, and in nothing else.

    Pairs of one configuration stand together, and those that are measured on the same held-out tokens too. Arms whose
    codes are not sparse are left out.
    """
    alike: dict[tuple[str, str], list[Finished]] = {}
    for run in runs:
        if run.job.spec.arm.sparse_codes:
            alike.setdefault(_configuration(run.job.spec), []).append(run)
    found: list[Pair] = []
    for _, group in sorted(alike.items()):
        for first, second in itertools.combinations(sorted(group, key=lambda run: run.run_id), 2):
            differs = difference(first.job.spec.seeds, second.job.spec.seeds)
            if differs is not None:
                found.append(Pair(first, second, differs))
    return found


def difference(one: Seeds, other: Seeds) -> str | None:
    """Return ALL where all seeds differ, the name of the one that does, and None for anything between.

    A support that no seed draws does not count.
    """
    parts = [name for name in Seeds._fields if getattr(one, name) is not None]
    differing = [name for name in parts if getattr(one, name) != getattr(other, name)]
    if differing == parts:
        return ALL
    return differing[0] if len(differing) == 1 else None


def _configuration(spec: RunSpec) -> tuple[str, str]:
    """Return what two runs of a pair share: the held-out tokens, and the id that they had with the same seeds."""
    data = repr((spec.synthetic, spec.activations, spec.eval.windows))
    return data, replace(spec, seed=0, **dict.fromkeys(SEED_PARTS)).run_id


def rounded_pairs(runs: Sequence[Finished]) -> list[tuple[Finished, Finished]]:
    """Return (a run whose SAE was rounded, the run of its original) where the record does not say what that changed."""
    by_id = {run.run_id: run for run in runs}
    found: list[tuple[Finished, Finished]] = []
    for run in runs:
        made_from = isinstance(run.job.spec.arm, (Quantised, RecodedArm))
        original = run.job.starts_from if made_from else None
        if original is not None and "rounding" not in run.record and original.spec.run_id in by_id:
            found.append((run, by_id[original.spec.run_id]))
    return found


def read(run: Finished, say: Say) -> Read:
    """Return a run's saved SAE, and what its own encoder finds of the held-out tokens that it was measured on.

    Raises:
        SAEFileError, OSError: there is no readable SAE.
        EvaluationError: the held-out text has changed since the run was measured.
    """
    job, device = run.job, device_from(run.job.device)
    sae = read_sae(device, job, run.record)
    if held_out_of(job).digest() != run.record["metrics"]["held_out_digest"]:
        raise EvaluationError("the held-out text has changed since this run was measured")
    if job.spec.synthetic is not None:
        return Read(sae, sample_codes(job, sae))
    return Read(sae, _text_codes(run, sae, device, say))


def _text_codes(run: Finished, sae: SAE, device: torch.device, say: Say) -> ReadTokens:
    norms = norms_from(run.record.get("activations", {}).get("norms"))
    clean = ready_clean_pass(run.job, device, positions_of(run.job, norms), say)
    return held_out_codes(sae, clean).read


def measure_pair(pair: Pair, first: Read, second: Read) -> dict[str, Any]:
    """Measure how alike the SAEs of a pair are, and put it into the record of the first, in memory and on disk."""
    found = stability_measures(first.dictionary, first.of_atoms, second.dictionary, second.of_atoms)
    entry = {"differs": pair.differs, **found}
    _add(pair.first, lambda record: record.setdefault("stability", {}).update({pair.second.run_id: entry}))
    return entry


def measure_rounding(rounded: Finished, after: Read, before: Read) -> dict[str, float | None]:
    """Measure what rounding changed of an SAE's latents, and put it into the rounded SAE's record."""
    found = rounding_between(before.sae, before.tokens, after.tokens)
    _add(rounded, lambda record: record.update(rounding=found))
    return found


def _add(run: Finished, change: Any) -> None:
    """Change a run's record on disk, where others may have changed it in the meantime, and in memory."""
    with lock_of(run.job):
        record = read_record(run.job.runs_dir, run.run_id) or run.record
        change(record)
        write_record(run.job.runs_dir, record)
    change(run.record)


def track(run: Finished) -> None:
    """Tell the tracker what a run's record now says."""
    folder = run_folder(run.job.runs_dir, run.run_id)
    tracker = failsafe_tracker(run.job, run.record, folder)
    tracker.summary(run.record)
    tracker.finish(failed=False)
