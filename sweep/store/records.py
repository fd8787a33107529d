"""The run store: `<runs_dir>/<run_id>/record.json`, one writer each, appearing by rename. Standard library only.

A record is a JSON object:

    schema      1
    kind        "recovery" for a synthetic experiment (its metrics are `algorithm/measure`, see `sweep.run.recovery`);
                missing for an SAE
    run_id      hash of the spec
    status      "complete" or "failed"
    spec        every setting that determines the result (see `sweep.jobs.spec`)
    labels      names for people: model, corpus, arm, sweep
    title       the run in a few words; records of before it had a place in W&B have none
    axes        layer, d, k, n, seed as asked
    sizes       d_in, n_latents, degree, k as built
    storage     learned_decoder_values, compression, learned_parameters, index_bits, value_bits, artifact_bytes
    metrics     reconstruction and LM-in-the-loop measures with the SAE's own encoder, see `sweep.measures.measures`
    inference   by name of the way codes are read (`sae_core.inference`): metrics, and cost (multiply_adds,
                tokens_per_second, threads), or the error that kept it from being measured
    training    steps, tokens and seconds of this run's own training, through interruptions; of a learned support also
                `exchanged`, how many entries changed their row
    source      of an arm that starts from another's SAE: that run's run_id and arm, and the tokens and seconds that
                training it took, its own source's included
    curves      tokens, loss, fvu and dead_fraction in training: lists, at most CURVE_POINTS of each
    latents     how latents are used on the held-out text (`sae_core.activity`), how supports lie, and where asked for
                novelty and cosine against a dense reference (`sae_core.comparison`)
    theory      what is known of the dictionary, see `sae_core.theory`: value, and whether exact, estimate or bound
    config      the whole resolved config as launched, paths included
    timings     seconds by stage; with launch.share, of all the runs that went through a stage together
    versions    of python, torch, transformers, numpy and this project; `code`, a hash of its sources; `trained_by`,
                where a training went on under other code than it began with: all of these hashes
    error       why it failed, when it did
    weights_sha256  of the run's sae.safetensors
    finished    ISO time
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sweep.store.files import write_json

SCHEMA = 1
_KEPT = {"run_id", "status"}  # in every record, whatever became of its run
RECORD = "record.json"
COMPLETE, FAILED = "complete", "failed"
CONTEXTS = "contexts.jsonl.gz"  # in a run's folder, see `sweep.measures.contexts`
LOCK = "lock"  # in a run's folder: held by whoever works on it
PROGRESS = "progress.json"  # in a run's folder, while somebody works on it: who, and at what
CHECKPOINT = "checkpoint.pt"  # in a run's folder, until it is complete
WEIGHTS = "weights_sha256"  # in a record
LAUNCH = "launch.json"  # in `launches/NAME/`: what a launch is for
CURVE = "curve.jsonl"  # in a run's folder: what training said at each report, a step again after a resume
SENT = "wandb.json"  # in a run's folder: where in Weights & Biases it is whole, and a digest of its record there
RECOVERY = "recovery"
CURVE_POINTS = 200

Record = dict[str, Any]


def run_folder(runs_dir: Path, run_id: str) -> Path:
    return runs_dir / run_id


def stop_file(folder: Path, launch: str) -> Path:
    """The file that asks the workers of `launch` to stop training this run, leaving a checkpoint and no record."""
    return folder / f"stop.{launch}"


def write_record(runs_dir: Path, record: Record) -> None:
    """Put `record` in its run's folder, whole or not at all."""
    write_json(run_folder(runs_dir, record["run_id"]) / RECORD, record)


def read_record(runs_dir: Path, run_id: str) -> Record | None:
    """The run's record, or None where there is none that can be read (it is then as if never run)."""
    try:
        return _read(run_folder(runs_dir, run_id) / RECORD)
    except (OSError, ValueError):
        return None


def unmeasured(record: Record, inference: Iterable[str]) -> list[str]:
    """Those of the names `inference` that a complete record has no measurement of."""
    measured = {name for name, found in record.get("inference", {}).items() if "metrics" in found}
    measured.add("encoder")  # records of before there was a choice have it as `metrics` alone
    return [name for name in inference if name not in measured]


def iterate_records(runs_dir: Path) -> Iterator[tuple[Path, Record | None]]:
    """(path, record) of every run under `runs_dir`, in order of run id; None for one that cannot be read."""
    for path in sorted(runs_dir.glob(f"*/{RECORD}")):
        try:
            yield path, _read(path)
        except (OSError, ValueError):
            yield path, None


def parse_record(text: str) -> Record:
    """The record that `text` is. Raises ValueError where it is none of this schema."""
    record = json.loads(text)
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not record.keys() >= _KEPT:
        raise ValueError(f"not a record of schema {SCHEMA}")
    return record


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The reports of a run's training so far, each step once, rising. Half lines are left out: one being written, and
    one that a killed writer left.
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
