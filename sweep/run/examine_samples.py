"""Measure a trained SAE on a synthetic model's held-out samples, and put what is found into its record."""

from __future__ import annotations

import traceback
from copy import deepcopy
from typing import Any

import torch

from sae_core import theory
from sae_core.activity import activity_measures, activity_of, support_measures
from sae_core.encoders import joined
from sae_core.inference import read_alike
from sae_core.sae import SAE
from sae_core.stability import ReadTokens
from sweep.jobs.job import Job
from sweep.measures.config import EvaluationError
from sweep.run.examine import active_atoms, rounding_between
from sweep.run.loaded import held_out_samples_of, synthetic_model
from sweep.run.recording import log, one_line
from sweep.store.progress import RunProgress
from sweep.store.records import Record, run_folder
from sweep.synthetic.measure import measure
from sweep.train.streams import Trainee


def examine_samples(job: Job, sae: SAE, record: Record, say: RunProgress, original: SAE | None = None) -> Trainee[None]:
    """Make the measurements that `job` asks for and its record lacks, and put them into the record.

    A measurement that fails leaves its error in the record, and the others go on.

    Args:
        original: for a rounded SAE the one of the values before rounding, to see what that changed of its latents.
    """
    yield from ()  # nothing is measured together with other runs
    found = record.setdefault("inference", {})
    for name in job.spec.eval.inference:
        if "metrics" not in found.get(name, {}):
            same = next((known for known in found if "metrics" in found[known] and read_alike(sae, name, known)), None)
            found[name] = _read(job, sae, name, say) if same is None else deepcopy(found[same])
    if "theory" not in record:
        say("latents")
        read = sample_codes(job, sae)
        record |= _of_latents(sae, read)
        if original is not None:
            record["rounding"] = rounding_between(original, sample_codes(job, original), read)


def _read(job: Job, sae: SAE, inference: str, say: RunProgress) -> dict[str, Any]:
    assert job.spec.synthetic is not None
    samples, model = held_out_samples_of(job), synthetic_model(job.spec.synthetic)
    try:
        return measure(sae, inference, model, samples, lambda done, total: say(f"evaluation: {inference}", done, total))
    except (EvaluationError, IndexError, RuntimeError) as error:
        log(run_folder(job.runs_dir, job.spec.run_id), traceback.format_exc())
        return {"error": one_line(error)}


@torch.inference_mode()
def sample_codes(job: Job, sae: SAE) -> ReadTokens:
    """Return the codes that an SAE's own encoder finds of the job's held-out samples, each a window of its own."""
    parts = [sae.encode(h.to(sae.b_dec.device)) for h in held_out_samples_of(job).batches()]
    codes, indices = (part.cpu() for part in joined(parts))
    return ReadTokens(codes, indices, torch.arange(len(codes)))


@torch.inference_mode()
def _of_latents(sae: SAE, read: ReadTokens) -> dict[str, Any]:
    """Return what is known of the dictionary, and how often its latents fire by the SAE's own encoder."""
    codes, indices, numbers = read
    activity = activity_of(codes, indices, sae.n_latents, numbers, numbers)
    support = None if sae.dictionary.support is None else sae.dictionary.support.cpu()
    return {
        "theory": theory.theory_measures(sae.dictionary, active_atoms(sae, read)),
        "latents": {**activity_measures(activity, support), "supports": support_measures(sae.dictionary)},
    }
