"""The run store: one record per run, in `<runs_dir>/<run_id>/record.json`. Standard library only.

Each record has one writer and appears by rename, so that a reader finds a whole record or none. A record is a JSON
object with these entries:

    schema      version of this format: 1
    kind        "recovery" for a recovery experiment (see `sweep.run.recovery`), "synthetic" for an SAE of samples of a
                synthetic model (see `sweep.synthetic`); missing for an SAE of an LM
    run_id      16 hex digits: the hash of `spec`, and the name of the run's folder
    status      "complete", "failed", or "dropped": its search ended its training early. Whoever asks for the run later
                has it trained to its end, from its checkpoint if that is still there
    error       one line that says why the run failed; missing from the other records
    dropped     of a dropped run alone: step, the training steps that it did, and why, in one line
    spec        every setting that determines the result (see `sweep.jobs.spec`)
    config      the whole resolved config as it was launched, paths included
    labels      names for people: model, corpus, arm, and sweep, the name of the launch
    title       the run in a few words; records that were written before runs appeared in Weights & Biases have none
    axes        layer, d, k, n and seed as they were asked for, and seed_support, seed_values and seed_order where they
                differ from the seed; a recovery run has no layer
    sizes       d_in, n_latents, degree and k as they were built
    storage     what the SAE stores (see `sae_core.storage`):
                learned_decoder_values  number of values, d * n, and those of a basis
                compression             d_in / degree, the paper's m / d; with a basis, m * n over the count above
                learned_parameters      number of values, with the encoder's weights and the biases
                index_bits              bits that the support takes
                value_bits              bits of one stored value of an atom; 1.6 where five share a byte. The
                                        share of a codebook is counted in
                basis_values, basis_bits  number of a basis' values, and bits of each; missing from older records
                source_bits             bits that say which activations the atoms are; missing from older records
                encoder_bits            bits of one of the encoder's own weights, 0 where it has none; missing from
                                        older records
                artifact_bytes          bytes of the file sae.safetensors
    activations what the SAE was trained on: rows, dtype (as stored), and norms, which says what tokens are ordinary and
                how many are not (`sweep.activations.norms`); missing from older records. There are no norms where all
                tokens of the LM are ordinary by declaration (`model.outlier_norm: null`)
    lm          how the LM was run: dtype; pass, "from the hook point" or "whole"; blocks, the module path of its
                blocks; where the dtype was found, what that changed of its cross-entropy. Older records lack some
    metrics     measures on held-out text, the codes found by the SAE's own encoder (`sweep.measures.measures` and
                `sae_core.metrics` define them). Those named ce_*, delta_ce and kl are in nats per predicted token; fvu,
                ce_recovered*, relative_error and *_fraction are ratios; l0 is in latents per token. `train_*` are from
                the end of training. mask_policy says which tokens are replaced and measured. ce_recovered* are null
                where the ablation does not clearly cost the LM anything (`sweep.measures.baselines`). A synthetic run
                has `sae_core.ground_truth`'s in place of those of an LM, a recovery run has `algorithm/measure` alone
    inference   {way of finding codes: its results}, by the names of `sae_core.inference`. The results are `metrics` as
                above and `cost`: multiply_adds per token, tokens_per_second, and threads, the CPU threads that this
                speed was measured with; or `error` alone, which says why this way could not be measured
    latents     how latents are used on the held-out text (`sae_core.activity`) and how supports overlap; where the run
                asked for them, also novelty and cosine against a dense reference (`sae_core.comparison`), and contexts,
                the number of contexts per latent in CONTEXTS
    probing     where the run asked for it: {family of labelled sets: its scores} (`sweep.probing`): `raw`, of the
                activations' coordinates (all, and the best 1, 2 and 5), and `readings`, by way of finding codes, of the
                best 1, 2 and 5 latents: {set: {number: accuracies, one for each draw of the items}}; or `error` alone
    stability   where `python -m sweep.stability` found runs that differ in a seed alone: {run_id of the other: how
                alike the two SAEs are} (`sae_core.stability`), with differs, the seed that differs: all, support,
                values or order. Of a pair the run whose id comes first has it
    rounding    for an SAE of rounded values: what that changed of its latents (`sae_core.quantised`), against the SAE
                that was rounded or, for values rounded in training, against the float values underneath at its end;
                missing from older records until `python -m sweep.stability` adds it
    survival    for an SAE that was made smaller (`sae=compressed`): how far its latents are those of the SAE that it
                was made of (`sweep.run.survival`), whose table of all latents is `latents.csv` in the run's folder
    theory      {quantity: value and kind}, what is known of the dictionary (`sae_core.theory`); the kind is exact,
                estimate or bound
    training    steps, tokens and seconds of this run's own training, over all its interruptions; for a learned support
                also exchanged, the number of entries that changed their row; on Linux peak_memory, the most bytes that
                the process had in memory, with the LM and with what it trained at the same time
    source      for an arm that starts from another run's SAE: the run_id and arm of that run, and the tokens and
                seconds that its training took, together with those of the run that it started from in turn
    curves      the course of training as lists of equal length, at most CURVE_POINTS values each: tokens seen so far,
                loss (in scaled units), fvu and dead_fraction
    timings     seconds by stage (activations, baselines, training, evaluation) and in total; train_tokens_per_second is
                a rate. With launch.share, a stage's seconds are those of all the runs that went through it together
    versions    of python, torch, transformers, numpy and this project; backend, the kernels that were used; code, a
                hash of the project's code files; trained_by, if training went on under other code than it began with,
                the hashes of all code that took part
    weights_sha256  64 hex digits: the sha256 of the run's sae.safetensors
    finished    ISO time at which the run ended
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweep.store.files import write_json

SCHEMA = 1
COMPLETE, FAILED, DROPPED = "complete", "failed", "dropped"  # the values of `status`
RECOVERY, SYNTHETIC = "recovery", "synthetic"  # the values of `kind` for what is no SAE of an LM
WEIGHTS = "weights_sha256"  # the key of the weights' checksum
CURVE_POINTS = 200  # values in each list of `curves`, at most
_REQUIRED_KEYS = {"run_id", "status"}  # every record has these, however its run ended

# Files in a run's folder.
RECORD = "record.json"
CONTEXTS = "contexts.jsonl.gz"  # the strongest contexts of each latent, see `sweep.measures.contexts`
LOCK = "lock"  # its file lock is held by the process that works on the run
PROGRESS = "progress.json"  # who works on the run and at which stage; there only while somebody does
LOG = "run.log"  # what a run has said, tracebacks included
CHECKPOINT = "checkpoint.pt"  # the state of the training; removed once the run is complete
CURVE = "curve.jsonl"  # every report of the training; after a resume the same steps may come again
SENT = "wandb.json"  # the run's address in Weights & Biases once all of it is there, and a hash of the record sent

LAUNCH = "launch.json"  # in `launches/<name>/`: the launch's command and the runs that it asked for

Record = dict[str, Any]


class UnreadableError(ValueError):
    """A record is there and cannot be read, for want of permission say; nobody may take it for missing or damaged."""


def run_folder(runs_dir: Path, run_id: str) -> Path:
    """Return the folder of a run in the run store."""
    return runs_dir / run_id


def stop_file(folder: Path, launch: str) -> Path:
    """Return the file that tells the workers of `launch` to stop training the run in `folder`; it says why.

    A run that is stopped in this way leaves a checkpoint and a record of status DROPPED.
    """
    return folder / f"stop.{launch}"


def stop_asked(folder: Path, launch: str) -> str | None:
    """Return why the workers of `launch` are to stop training the run in `folder`; None where they are not."""
    try:
        return stop_file(folder, launch).read_text() or None  # an empty file is being written
    except (FileNotFoundError, NotADirectoryError):
        return None


def drop_in_words(record: Record) -> str:
    """Return, for a dropped run, for example `dropped at step 300: FVU 0.81 at 30 % of training is over ...`."""
    return f"{DROPPED} at step {record['dropped']['step']}: {record['dropped']['why']}"


def write_record(runs_dir: Path, record: Record) -> None:
    """Write `record` to its run's folder, whole or not at all."""
    write_json(run_folder(runs_dir, record["run_id"]) / RECORD, record)


def read_record(runs_dir: Path, run_id: str) -> Record | None:
    """Return the run's record, or None if there is none or a damaged one; the run then counts as never made.

    Raises:
        UnreadableError: there is a record that cannot be read.
    """
    path = run_folder(runs_dir, run_id) / RECORD
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise UnreadableError(
            f"{path} cannot be read ({error.strerror}): ask its owner for permission, or give another runs_dir"
        ) from None


def unmeasured_inference(record: Record, inference: Iterable[str]) -> list[str]:
    """Return the ways of finding codes among `inference` for which a complete record has no measurement."""
    measured = {name for name, found in record.get("inference", {}).items() if "metrics" in found}
    measured.add("encoder")  # older records have its measurement as `metrics` only
    return [name for name in inference if name not in measured]


def iterate_records(runs_dir: Path) -> Iterator[tuple[Path, Record | None]]:
    """Yield (path, record) for every run under `runs_dir`, in order of run id; a record that cannot be read is None."""
    for path in sorted(runs_dir.glob(f"*/{RECORD}")):
        try:
            yield path, _read(path)
        except (OSError, ValueError):
            yield path, None


def parse_record(text: str) -> Record:
    """Return the record that `text` holds as JSON. Raise ValueError unless it is a record of this schema."""
    record = json.loads(text)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not record.keys() >= _REQUIRED_KEYS:
        raise ValueError(f"not a record of schema {SCHEMA}")
    return record


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """Return the reports of a run's training so far, in order of steps and each step once.

    An incomplete line is left out: one that is being written now, or one that a killed writer left.
    """
    try:
        lines = (folder / CURVE).read_text().splitlines(keepends=True)
    except OSError:
        return []
    by_step: dict[int, dict[str, Any]] = {}
    for line in lines:
        with suppress(ValueError):
            report = json.loads(line if line.endswith("\n") else "")
            by_step[report["step"]] = report
    return [by_step[step] for step in sorted(by_step)]


def _read(path: Path) -> Record:
    return parse_record(path.read_text())
