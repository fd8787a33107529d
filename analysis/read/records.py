"""Run records -> tidy tables, each made once and kept: every figure of `python -m analysis all` reads the same ones."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Collection, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis import arms
from analysis.frames import dicts
from analysis.read.comparable import comparable
from analysis.read.load import read_records, say_unreadable
from analysis.read.sources import URL, NoRunsError, Remote, Source, named
from sweep.store.records import RECOVERY, Record

_NAMED = ("arm", "degree", "k", "n_latents", "encoder", "match", "bits")  # the label or another column says them
_STORAGE = {"value_bits": 32, "artifact_bytes": float("nan")}  # where a record does not say


@dataclass(frozen=True)
class Records:
    """The complete records of one source.

    Args:
        source: where they are from.
        records: as read; nobody changes them.
    """

    source: Source
    records: tuple[Record, ...]

    @classmethod
    def read(cls, source: Source) -> Records:
        """Raises NoRunsError as `read_records`."""
        return cls(source, tuple(read_records(source)))

    @property
    def named(self) -> str:
        """The source as the command line has it, for messages."""
        return named(self.source)

    @property
    def folder(self) -> Path | None:
        """The folder of runs that they are from, if they are from one."""
        return None if isinstance(self.source, Remote) or not Path(self.source).is_dir() else Path(self.source)

    def at(self, layers: Collection[int], ks: Collection[int]) -> Records:
        """Those of the given layers and k, each for all if empty; PCA, which has no k, and synthetic ones stay."""
        kept = [record for record in self.records if _at(record, layers, ks)]
        if self.records and not kept:
            raise NoRunsError(f"{self.named}: no run at layer {sorted(layers)} and k {sorted(ks)}")
        return Records(self.source, tuple(kept))

    def of(self, study: Path) -> Records:
        """Those whose run id is in the column `run_id` of the CSV file `study`, as a search writes it.

        Raises:
            NoRunsError: there is no such file or column, or none of the runs has a complete record.
        """
        return self.only(_run_ids(study), f"--study {study}")

    def only(self, run_ids: Set[str], asked_by: str) -> Records:
        """Those with one of the given run ids; how many ids have no complete record is said on standard error.

        Args:
            asked_by: what the ids are from, as messages name it.

        Raises:
            NoRunsError: none of them has a complete record.
        """
        kept = tuple(record for record in self.records if record["run_id"] in run_ids)
        if not kept:
            raise NoRunsError(f"{asked_by}: none of its {len(run_ids)} run(s) is complete in {self.named}")
        absent = len(run_ids) - len({record["run_id"] for record in kept})
        if absent:
            print(
                f"note: {absent} of {len(run_ids)} run(s) of {asked_by} not complete in {self.named}", file=sys.stderr
            )
        return Records(self.source, kept)

    @cached_property
    def everything(self) -> pd.DataFrame:
        """One row per complete run: labels, axes, sizes, storage and metrics as columns, and

        - `d`: as asked, NaN for arms that have none (full dense ones, PCA),
        - `settings`: what else determines the result (text, recipe, evaluation), as JSON; see `comparable`,
        - `options`: those of the arm that its label does not name, such as the dynamic support's, as JSON,
        - `decoder_compression`: m*n / (n_latents*degree): m/d for an expander, n/n' for dense_matched,
        - `train_tokens`: tokens trained on, those of the run it was made from included; NaN in older records,
        - `latents`, `curves`, `theory`: the record's dicts, empty where it has none.

        Raises:
            NoRunsError: no run of an SAE.
        """
        rows: list[dict[str, object]] = []
        for record in self.records:
            if record.get("kind") == RECOVERY:
                continue
            try:
                rows.append(_row(record))
            except (KeyError, TypeError, ValueError) as error:
                say_unreadable(f"run {record.get('run_id')}", error)
        if not rows:
            raise NoRunsError(f"{self.named}: no complete run in it; python -m sweep makes some")
        return pd.DataFrame(rows)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Those of `everything` that may be drawn together: see `comparable`."""
        return comparable(self.everything)

    @cached_property
    def readings(self) -> pd.DataFrame:
        """One row per run of `runs` and way its codes were read: the columns of `runs`, the measures being that way's,
        and `inference`, its name (`encoder`, `omp`, ...), with `multiply_adds`, `tokens_per_second` and `threads`.

        Raises:
            NoRunsError: no record says how codes were read.
        """
        of_run = {row["run_id"]: row for row in dicts(self.runs)}
        rows: list[dict[str, object]] = []
        for record in self.records:
            run = of_run.get(record["run_id"])
            for name, found in record.get("inference", {}).items():
                if run is not None and "metrics" in found:
                    rows.append({**run, **found["metrics"], **found["cost"], "inference": name})
        if not rows:
            raise NoRunsError(f"{self.named}: no run in it says how its codes were read; run python -m sweep again")
        return pd.DataFrame(rows)

    @cached_property
    def recovery(self) -> pd.DataFrame:
        """One row per synthetic experiment and algorithm: mask, d, k, n, d_in, noise, values, codes, seed, trials,
        algorithm and its measures (see `sweep.run.recovery.recovery_measures`).

        Raises:
            NoRunsError: there is none.
        """
        rows = [row for record in self.records if record.get("kind") == RECOVERY for row in _planted(record)]
        if not rows:
            raise NoRunsError(
                f"{self.named}: no synthetic run; python -m sweep experiment=synthetic_recovery makes them"
            )
        return pd.DataFrame(rows)


def _run_ids(study: Path) -> set[str]:
    try:
        with study.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if "run_id" not in (reader.fieldnames or ()):
                raise NoRunsError(f"--study {study}: no column run_id in its first line")
            return {row["run_id"] for row in reader if row["run_id"]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a CSV file"
        raise NoRunsError(f"--study {study}: cannot be read ({reason})") from None


def _at(record: Record, layers: Collection[int], ks: Collection[int]) -> bool:
    if record.get("kind") == RECOVERY:
        return True
    axes, of_pca = record["axes"], arms.base(record["labels"]["arm"]) == arms.PCA
    return (not layers or axes["layer"] in layers) and (not ks or of_pca or axes["k"] in ks)


def _planted(record: Record) -> list[dict[str, object]]:
    axes, config = record["axes"], record["spec"]["recovery"]
    cell = {**axes, **{key: config[key] for key in ("mask", "d_in", "noise", "values", "codes", "trials")}}
    rows: list[dict[str, object]] = []
    for algorithm in config["algorithms"]:
        prefix = f"{algorithm}/"
        measures = {k.removeprefix(prefix): v for k, v in record["metrics"].items() if k.startswith(prefix)}
        rows.append({**cell, "algorithm": algorithm, **measures})
    return rows


def _row(record: Record) -> dict[str, object]:
    sizes, axes, arm = record["sizes"], record["axes"], record["labels"]["arm"]
    d_in, n_latents, degree, n = sizes["d_in"], sizes["n_latents"], sizes["degree"], int(axes["n"])
    row = {
        **_STORAGE,
        "run_id": record["run_id"],
        **{key: record["labels"][key] for key in ("model", "corpus", "arm", "sweep")},
        **{key: int(axes[key]) for key in ("layer", "k", "n", "seed")},
        "d": float(axes["d"]) if arms.has_degree(arm, degree, d_in, n_latents, n) else float("nan"),
        "d_in": d_in,
        "n_latents": n_latents,
        "degree": degree,
        **record["storage"],
        **record["metrics"],
        "seconds": record["timings"]["total"],
        "finished": record["finished"],
        "url": record.get(URL, ""),
        "settings": json.dumps(_settings(record["spec"]), sort_keys=True),
        "options": json.dumps(_arm_options(record["spec"].get("sae") or {}), sort_keys=True),
        "pool_tokens": record["spec"]["activations"].get("tokens"),
        "dense_values": d_in * n,
        "decoder_compression": d_in * n / (n_latents * degree),
        **_training(record),
        **{key: record.get(key) or {} for key in ("latents", "curves", "theory")},
    }
    float(row["ce_recovered"])  # a record without its main figure is not one
    return row


def _settings(spec: Record) -> dict[str, object]:
    """All that determines a result beside the arm, its sizes, the layer and the seed."""
    return {
        f"{part}.{key}": value
        for part in ("activations", "train", "eval")
        for key, value in (spec.get(part) or {}).items()
        if (part, key) != ("activations", "layer")
    }


def _arm_options(sae: Record) -> dict[str, object]:
    """Of a rounded arm those of the one that was rounded."""
    own = sae.get("of") or sae
    return {f"sae.{key}": value for key, value in own.items() if key not in _NAMED and not isinstance(value, dict)}


def _training(record: Record) -> dict[str, object]:
    """Tokens and seconds that training took, those of the run it was made from included."""
    own, source = record.get("training") or {}, record.get("source") or {}
    if "tokens" not in own:
        return {"train_tokens": float("nan"), "train_seconds": float("nan")}
    return {
        "train_tokens": float(own["tokens"]) + float(source.get("tokens") or 0),
        "train_seconds": float(own.get("seconds") or 0) + float(source.get("seconds") or 0),
    }
