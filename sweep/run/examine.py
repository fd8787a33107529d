"""Measure a trained SAE, and put what is found into its record: each way of reading codes, latents, dictionary."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import Tensor

from sae_core import theory
from sae_core.activity import Activity, activity_measures, support_measures
from sae_core.comparison import cosine_matches, novelty
from sae_core.correlation import code_matrix
from sae_core.inference import ENCODER, read_alike
from sae_core.quantised import rounding_measures
from sae_core.sae import SAE
from sae_core.stability import ReadTokens
from sweep.jobs.job import Job
from sweep.measures.baselines import Baselines
from sweep.measures.clean import CleanPass
from sweep.measures.config import EvaluationError
from sweep.measures.contexts import token_texts, top_contexts, write_contexts
from sweep.measures.measures import Reading, ReadingRequest, held_out_codes, measure_together
from sweep.run.loaded import tokenizer_of
from sweep.run.probing import probe
from sweep.run.recording import log, one_line
from sweep.store.once_said import say_once
from sweep.store.progress import RunProgress
from sweep.store.records import CONTEXTS, Record, run_folder
from sweep.train.streams import JointRequest, Trainee

THEORY_TOKENS = 4096  # tokens whose active sets of atoms `sae_core.theory` looks at

# How the LM was run to measure, as records name it: from the hook point up, or all of it.
FROM_HOOK, WHOLE = "from the hook point", "whole"

Load = Callable[[Job], tuple[SAE, str]]  # returns a finished run's SAE and run id


def examine(
    job: Job,
    sae: SAE,
    clean: CleanPass,
    base: Baselines,
    record: Record,
    say: RunProgress,
    load: Load,
    original: SAE | None = None,
) -> Trainee[None]:
    """Make the measurements that `job` asks for and its record lacks, and put them into the record.

    This is a generator: readings of runs that are measured at the same time are made together. A measurement that fails
    leaves its error in the record, and the others go on.

    Args:
        clean: the LM's pass over the held-out text.
        base: the LM's cross-entropies without the SAE.
        say: told what is being measured.
        load: gives the SAE that novelty compares with.
        original: for a rounded SAE the one of the values before rounding, to see what that changed of its latents.
    """
    yield from _measure_readings(job, sae, clean, base, record, say)
    probe(job, sae, clean.positions, record, say)
    if "theory" in record and "latents" in record and not {"novelty", "contexts"} & set(job.lacking(record)):
        return
    say("latents")
    found = held_out_codes(sae, clean)
    activity = found.measured_activity
    if "theory" not in record:
        record["theory"] = theory.theory_measures(sae.dictionary, active_atoms(sae, found.read))
    if "latents" not in record:
        support = sae.dictionary.support
        support = None if support is None else support.cpu()
        record["latents"] = {**activity_measures(activity, support), "supports": support_measures(sae.dictionary)}
    if original is not None:
        record["rounding"] = rounding_between(original, held_out_codes(original, clean).read, found.read)
    latents, lacking = record["latents"], job.lacking(record)
    if "novelty" in lacking:
        try:
            latents |= _compared(job, sae, activity, clean, load)
        except (ValueError, OSError, RuntimeError) as error:
            latents["novelty"] = {"error": one_line(error)}
            log(run_folder(job.runs_dir, job.spec.run_id), traceback.format_exc())
    if "contexts" in lacking:
        text, count = token_texts(tokenizer_of(job).decode), len(activity.tokens)
        strongest = top_contexts(found.activity, found.codes, text, job.spec.eval.contexts, measured=count)
        write_contexts(run_folder(job.runs_dir, job.spec.run_id) / CONTEXTS, strongest)
        latents["contexts"] = job.spec.eval.contexts


def active_atoms(sae: SAE, read: ReadTokens) -> Tensor:
    """Return the atoms that are active together on each of the first tokens, for `sae_core.theory`: int (tokens, k)."""
    codes, indices = (sae.of_atoms(part[:THEORY_TOKENS]) for part in (read.codes, read.indices))
    return theory.active_sets(codes, indices, sae.k)


def rounding_between(original: SAE, before: ReadTokens, after: ReadTokens) -> dict[str, float | None]:
    """Return what rounding changed of an SAE's latents, given the codes of the same tokens before and after."""
    n = original.n_latents
    return rounding_measures(*(code_matrix(read.codes, read.indices, n) for read in (before, after)))


def _measure_readings(
    job: Job, sae: SAE, clean: CleanPass, base: Baselines, record: Record, say: RunProgress
) -> Trainee[None]:
    measured = record.setdefault("inference", {})
    readings: list[Reading] = []
    alike: dict[str, str] = {}  # readings that are another one by another name
    for name in (name for name in job.spec.eval.inference if "metrics" not in measured.get(name, {})):
        if name == ENCODER and record["metrics"]:
            continue
        done = [known for known, found in measured.items() if "metrics" in found]
        try:
            earlier = [*done, *(reading.inference for reading in readings)]
            same = next((known for known in earlier if read_alike(sae, name, known)), None)
            if same is None:
                readings.append(Reading(sae, name, base, clean.positions.mask_policy))
            else:
                alike[name] = same
        except (EvaluationError, IndexError, RuntimeError) as error:
            measured[name] = _failed(job, error)
    if readings:
        yield from _read_together(job, clean, readings, record, say)
    for reading in readings:
        try:
            measured[reading.inference] = reading.result()
        except (EvaluationError, IndexError, RuntimeError) as error:
            measured[reading.inference] = _failed(job, error)
    for name, same in alike.items():
        measured[name] = deepcopy(measured[same])


def _read_together(
    job: Job, clean: CleanPass, readings: list[Reading], record: Record, say: RunProgress
) -> Trainee[None]:
    """Have the readings measured, with those of other runs, and put into the record how the LM was run for it."""
    said = f"evaluation: {', '.join(reading.inference for reading in readings)}"
    request = ReadingRequest(readings, lambda done, total: say(said, done, total))
    yield JointRequest(measure_together, clean, request)
    whole = clean.lm.why_whole(clean.layer)
    record["lm"] = {**record.get("lm", {}), "dtype": job.model.dtype, "pass": WHOLE if whole else FROM_HOOK}
    record["lm"]["blocks"] = clean.lm.path
    if whole:
        say_once(
            job.runs_dir / "launches" / job.launch,
            f"warning: {job.model.label} cannot be entered after block {clean.layer} ({whole}), so that all of it runs "
            "for each measure",
        )


def _failed(job: Job, error: Exception) -> dict[str, str]:
    """Return what the record says of a measurement that failed; the log has the traceback."""
    log(run_folder(job.runs_dir, job.spec.run_id), "".join(traceback.format_exception(error)))
    return {"error": one_line(error)}


def _compared(job: Job, sae: SAE, activity: Activity, clean: CleanPass, load: Load) -> dict[str, Any]:
    """Compare the latents with those of the job's reference run: by activations (`novelty`) and by atoms (`cosine`)."""
    reference, run_id = load(job.reference)
    theirs = held_out_codes(reference, clean).measured_activity
    return {
        "novelty": {"reference": run_id, **novelty(activity, theirs)},
        "cosine": {"reference": run_id, **cosine_matches(sae.dictionary, reference.dictionary)},
    }
