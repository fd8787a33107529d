"""Tidy tables made of run records; each is made once and kept, for every figure of `python -m analysis all`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Collection, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import arms
from analysis.frames import dicts
from analysis.read.comparable import ALL_TOKENS, comparable, of_the_usual_recipe, of_the_usual_seeds
from analysis.read.load import read_records, say_unreadable
from analysis.read.rows import ENCODER, numbers, pair_row, probe_rows, recovery_rows, run_row, sample_rows
from analysis.read.sources import NoRunsError, Remote, Source, named
from sweep.store.records import RECOVERY, SYNTHETIC, Record


@dataclass(frozen=True)
class Records:
    """The complete records of one source.

    Args:
        source: the place that the records were read from.
        records: the records as read; nobody changes them.
    """

    source: Source
    records: tuple[Record, ...]

    @classmethod
    def read(cls, source: Source) -> Records:
        """Read every complete record of `source`. Raises NoRunsError where there is none."""
        return cls(source, tuple(read_records(source)))

    @property
    def named(self) -> str:
        """The source as an option of the command line names it, for messages."""
        return named(self.source)

    @property
    def folder(self) -> Path | None:
        """The folder of runs that the records were read from, None for any other source."""
        return None if isinstance(self.source, Remote) or not Path(self.source).is_dir() else Path(self.source)

    def at(self, layers: Collection[int], ks: Collection[int], models: Collection[str] = ()) -> Records:
        """Return the records of the given layers, k and LMs, these by name; an empty collection means all of them.

        PCA, which has no k, stays at any k, and recovery experiments always stay.

        Raises:
            NoRunsError: none is left.
        """
        kept = [record for record in self.records if _is_at(record, layers, ks)]
        if models:
            here = {str(_model(record)) for record in kept}
            kept = [record for record in kept if _model(record) in models]
            if here and not kept:
                raise NoRunsError(
                    f"{self.named}: no run of LM {', '.join(models)}; there are {', '.join(sorted(here))}"
                )
        if self.records and not kept:
            raise NoRunsError(f"{self.named}: no run at layer {sorted(layers)} and k {sorted(ks)}")
        return Records(self.source, tuple(kept))

    def of(self, study: Path) -> Records:
        """Return the records whose run id is in the column `run_id` of the CSV file `study`, as a search writes it.

        Raises:
            NoRunsError: there is no such file or column, or none of its runs has a complete record.
        """
        return self.only(_run_ids(study), f"--study {study}")

    def only(self, run_ids: Set[str], asked_by: str) -> Records:
        """Return the records of the given run ids; standard error says how many ids have no complete record.

        Args:
            asked_by: the origin of the ids, as messages name it.

        Raises:
            NoRunsError: none of the ids has a complete record.
        """
        kept = tuple(record for record in self.records if record["run_id"] in run_ids)
        if not kept:
            raise NoRunsError(f"{asked_by}: none of its {len(run_ids)} run(s) is complete in {self.named}")
        absent = len(run_ids) - len({record["run_id"] for record in kept})
        if absent:
            note = f"note: {absent} of {len(run_ids)} run(s) of {asked_by} not complete in {self.named}"
            print(note, file=sys.stderr)
        return Records(self.source, kept)

    @cached_property
    def everything(self) -> pd.DataFrame:
        """One row per complete run of an SAE, with labels, axes, sizes, storage and metrics as columns, and

        - `base_arm`, `pursuit`, `bits`, `how_rounded`: the parts of the arm as the record's spec has them: its name
          without pursuit and rounding, the pursuit that trained it ("" for the one-shot encoder), the bits of each
          decoder value (32 where it was not rounded), and how (`trained`, `pq`; "" after training),
        - `unrounded_arm`: the label of the arm that was rounded, or the arm's own,
        - `reading`: what finds the codes that the metrics are about: topk or the pursuit that trained the arm,
        - `d`: the d asked for, NaN for arms that have none (full dense ones, PCA),
        - `seed_support`, `seed_values`, `seed_order` where a run has such seeds,
        - `rounding_*`: what rounding changed of the latents, where it was measured (`sae_core.quantised`),
        - `survived`: the share of an SAE's latents that stay what they were when it is made smaller, where it was,
        - `settings`: the other settings that determine the result (text, recipe, evaluation), as JSON; see
          `analysis.read.comparable`,
        - `options`: the arm's options that its label does not name, such as the dynamic support's, as JSON,
        - `decoder_compression`: m*n / (n_latents*degree + basis_values): m/d for an expander, n/n' for dense_matched,
        - `train_tokens`: tokens trained on, including those of the run it was made from; NaN in older records,
        - `train_seconds`: the seconds that this took,
        - `latents`, `curves`, `theory`: the record's dicts, empty where it has none.

        Raises:
            NoRunsError: there is no run of an SAE.
        """
        rows: list[dict[str, object]] = []
        undefined = 0
        for record in self.records:
            if record.get("kind") in (RECOVERY, SYNTHETIC):
                continue
            if _metrics(record).get("ce_recovered", 0) is None:
                undefined += 1
                continue
            try:
                rows.append(run_row(record))
            except (KeyError, TypeError, ValueError) as error:
                say_unreadable(f"run {record.get('run_id')}", error)
        if undefined:
            why = "zero ablation does not clearly cost the LM anything on their text"
            print(f"note: {undefined} run(s) left out, whose CE recovered is undefined: {why}", file=sys.stderr)
        if not rows and any(record.get("kind") == SYNTHETIC for record in self.records):
            raise NoRunsError(f"{self.named}: only runs on samples, none on an LM; python -m analysis meaning draws it")
        if not rows:
            raise NoRunsError(f"{self.named}: no complete run in it; python -m sweep makes some")
        return pd.DataFrame(rows)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The rows of `everything` that may be drawn together; `analysis.read.comparable` chooses them."""
        return comparable(self.everything)

    @cached_property
    def as_the_paper(self) -> Records:
        """The records that tables of the paper show: of a model that has runs over all tokens, these alone."""
        over_all = {_model(record) for record in self.records if _is_over_all_tokens(record)}
        kept = [r for r in self.records if _model(r) not in over_all or _is_over_all_tokens(r)]
        return Records(self.source, tuple(kept))

    @cached_property
    def readings(self) -> pd.DataFrame:
        """One row per run of `runs` and way of reading its codes: the columns of `runs`, with the measures of that way.

        Further columns are `inference`, the name of the way (`encoder`, `omp`, ...), and its cost: `multiply_adds`
        a token, `tokens_per_second` and `threads`. `reading` names what finds the codes (never `encoder`).

        Raises:
            NoRunsError: no record says how its codes were read.
        """
        of_run = {row["run_id"]: row for row in dicts(self.runs)}
        rows: list[dict[str, object]] = []
        for record in self.records:
            run = of_run.get(record["run_id"])
            for name, found in record.get("inference", {}).items():
                if run is not None and "metrics" in found:
                    way = {"inference": name, "reading": run["reading"] if name == ENCODER else name}
                    rows.append({**run, **numbers(found["metrics"]), **found["cost"], **way})
        if not rows:
            raise NoRunsError(f"{self.named}: no run in it says how its codes were read; run python -m sweep again")
        return pd.DataFrame(rows)

    @cached_property
    def probes(self) -> pd.DataFrame:
        """One row per run of `runs`, way of reading its codes, labelled set and number of latents that a probe uses.

        Columns: those of `runs`, and `reading` (the way by the name of what finds the codes), `family`, `set`
        (ALL_SETS stands for the mean over the family's sets), `best` (the number of latents), `accuracy`, `raw` and
        `raw_all` (the accuracies of as many coordinates of the activation, and of all), each the mean over all draws of
        items.

        Raises:
            NoRunsError: no run was probed.
        """
        of_run = {row["run_id"]: row for row in dicts(self.runs)}
        rows: list[dict[str, object]] = []
        for record in self.records:
            run = of_run.get(record["run_id"])
            for family, found in (record.get("probing") or {}).items():
                if run is not None:
                    rows += [{**run, "family": family, **row} for row in probe_rows(found, run["reading"])]
        if not rows:
            raise NoRunsError(f"{self.named}: no run was probed; python -m sweep.evaluate run=all eval.probing=[code]")
        return pd.DataFrame(rows)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """One row per SAE of a synthetic model and way of reading its codes, with the measures of that way.

        Columns: run_id, model, arm, base_arm, pursuit, bits, d, k, n, seed, degree, n_latents, d_in; the storage's;
        `features` (which features the model has, in words), `settings` (all else that determines the result, as
        JSON); `reading`, the way of reading by the name of what finds the codes: topk, mp_refit, ...; and the measures
        of `sweep.synthetic.measure`.

        Raises:
            NoRunsError: there is no such run.
        """
        rows: list[dict[str, object]] = []
        for record in self.records:
            if record.get("kind") == SYNTHETIC:
                rows += sample_rows(record)
        if not rows:
            raise NoRunsError(
                f"{self.named}: no SAE of a synthetic model; python -m sweep experiment=meaning/synthetic"
            )
        return of_the_usual_seeds(pd.DataFrame(rows))

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """One row per two runs that differ in a seed alone and that `python -m sweep.stability` has compared.

        Columns: those that say what the SAEs are (`samples`); `place`, the block after which an LM was read, or which
        features a synthetic model has; `reading`, what finds the codes; `other`, the run id of the second run;
        `differs`: all, support, values or order; and the measures of `sae_core.stability`.

        Raises:
            NoRunsError: no two runs were compared.
        """
        rows: list[dict[str, object]] = []
        for record in self.records:
            for other, found in (record.get("stability") or {}).items():
                rows.append({**pair_row(record), **numbers(found), "other": other})
        if not rows:
            raise NoRunsError(f"{self.named}: no two runs were compared; python -m sweep.stability compares them")
        return of_the_usual_recipe(pd.DataFrame(rows))

    @cached_property
    def recovery(self) -> pd.DataFrame:
        """One row per synthetic experiment and algorithm.

        Columns: mask, d, k, n, d_in, noise, values, codes, seed, trials, algorithm, and the measures of
        `sweep.run.recovery.recovery_measures`.

        Raises:
            NoRunsError: there is no synthetic experiment.
        """
        rows = [row for record in self.records if record.get("kind") == RECOVERY for row in recovery_rows(record)]
        if not rows:
            raise NoRunsError(
                f"{self.named}: no synthetic run; python -m sweep experiment=synthetic_recovery makes them"
            )
        return pd.DataFrame(rows)


def _run_ids(study: Path) -> set[str]:
    """Return the run ids in the column `run_id` of a CSV file. Raises NoRunsError where that cannot be read."""
    try:
        with study.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if "run_id" not in (reader.fieldnames or ()):
                raise NoRunsError(f"--study {study}: no column run_id in its first line")
            return {row["run_id"] for row in reader if row["run_id"]}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a CSV file"
        raise NoRunsError(f"--study {study}: cannot be read ({reason})") from None


def _is_at(record: Record, layers: Collection[int], ks: Collection[int]) -> bool:
    if record.get("kind") == RECOVERY:
        return True
    axes, is_pca = record["axes"], arms.base(record["labels"]["arm"]) == arms.PCA
    return (not layers or axes["layer"] in layers) and (not ks or is_pca or axes["k"] in ks)


def _metrics(record: Record) -> dict[str, Any]:
    return record.get("metrics") or {}


def _model(record: Record) -> object:
    return (record.get("labels") or {}).get("model")


def _is_over_all_tokens(record: Record) -> bool:
    return _metrics(record).get("mask_policy") == ALL_TOKENS
