"""Run records -> one tidy table."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import pandas as pd

from sweep.store import COMPLETE, RECOVERY, Record, iterate_records


class NoRunsError(ValueError):
    """There is nothing to draw."""


def load_runs(runs_dir: Path) -> pd.DataFrame:
    """One row per complete run: labels, axes, sizes, storage and metrics as columns, and

    - `settings`: what else determines the result (text, recipe, evaluation), as JSON; see `comparable`,
    - `decoder_compression`: m*n / learned decoder values, m/d for an expander and m*n/(m*n') for dense_matched,
    - `dense_values`: m*n, the decoder values of a dense SAE of the same n.

    Records that cannot be read are named on standard error and left out; so are failed runs, by number.

    Raises:
        NoRunsError: no folder, or no complete run in it.
    """
    rows: list[dict[str, object]] = []
    failed = 0
    for path, record in _records(runs_dir):
        if record.get("kind") == RECOVERY:
            continue
        if record["status"] != COMPLETE:
            failed += 1
            continue
        try:
            rows.append(_row(record))
        except (KeyError, TypeError, ValueError) as error:
            _say_unreadable(path, error)
    if failed:
        print(f"note: {failed} failed run(s) left out", file=sys.stderr)
    if not rows:
        raise NoRunsError(f"--runs {runs_dir}: no complete run in it; python -m sweep makes some")
    return pd.DataFrame(rows)


def load_inferences(runs_dir: Path) -> pd.DataFrame:
    """One row per complete run and way its codes were read: `load_runs`'s columns, the measures being that way's, and

    - `inference`: its name (`encoder`, `omp`, ...), with `multiply_adds`, `tokens_per_second` and `threads`,
    - `theory`: the run's, the record's dict.

    Raises as `load_runs`, and NoRunsError where no record says how codes were read.
    """
    runs = load_runs(runs_dir).set_index("run_id", drop=False)
    rows: list[dict[str, object]] = []
    for _, record in _records(runs_dir):
        if record["run_id"] not in runs.index or record.get("kind") == RECOVERY:
            continue
        run = cast(dict[str, object], runs.loc[record["run_id"]].to_dict())
        for name, found in record.get("inference", {}).items():
            if "metrics" in found:
                extra = {"inference": name, "theory": record.get("theory", {})}
                rows.append({**run, **found["metrics"], **found["cost"], **extra})
    if not rows:
        raise NoRunsError(f"--runs {runs_dir}: no run in it says how its codes were read; run python -m sweep again")
    return pd.DataFrame(rows)


def load_recovery(runs_dir: Path) -> pd.DataFrame:
    """One row per complete synthetic experiment and algorithm: mask, d, k, n, d_in, noise, values, codes, seed, trials,
    algorithm and its measures (see `sweep.recovery.measure`).

    Raises:
        NoRunsError: there is none.
    """
    rows: list[dict[str, object]] = []
    for _, record in _records(runs_dir):
        if record.get("kind") != RECOVERY or record["status"] != COMPLETE:
            continue
        axes, config = record["axes"], record["spec"]["recovery"]
        cell = {**axes, **{key: config[key] for key in ("mask", "d_in", "noise", "values", "codes", "trials")}}
        for algorithm in config["algorithms"]:
            prefix = f"{algorithm}/"
            measures = {k.removeprefix(prefix): v for k, v in record["metrics"].items() if k.startswith(prefix)}
            rows.append({**cell, "algorithm": algorithm, **measures})
    if not rows:
        raise NoRunsError(f"--runs {runs_dir}: no synthetic run; python -m sweep experiment=synthetic_recovery")
    return pd.DataFrame(rows)


def _records(runs_dir: Path) -> Iterator[tuple[Path, Record]]:
    """Every record that can be read; those that cannot are named on standard error."""
    if not runs_dir.is_dir():
        raise NoRunsError(f"--runs {runs_dir}: no such folder; python -m sweep writes records under runs/")
    for path, record in iterate_records(runs_dir):
        if record is None:
            _say_unreadable(path, ValueError())
        else:
            yield path, record


def _say_unreadable(path: Path, error: Exception) -> None:
    print(f"warning: {path} cannot be read and is left out ({type(error).__name__})", file=sys.stderr)


def comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that may be drawn together: per (model, layer, n) those of the most frequent `settings`.

    A trial with fewer steps or another text must not be averaged with the sweep as if it were one more seed; what is
    left out is said on standard error, with the settings that differ.
    """
    kept: list[pd.DataFrame] = []
    for key, panel in runs.groupby(["model", "layer", "n"]):
        oldest_first = panel.sort_values("finished")["settings"].tolist()
        counts = Counter(reversed(oldest_first))
        chosen, _ = counts.most_common(1)[0]  # the most recent one where two are equally frequent
        for other in counts.keys() - {chosen}:
            _say_left_out(cast(tuple[Any, ...], key), counts[other], json.loads(other), json.loads(chosen))
        kept.append(panel.query("settings == @chosen"))
    return pd.concat(kept, ignore_index=True)


def _say_left_out(key: tuple[Any, ...], count: int, other: dict[str, object], chosen: dict[str, object]) -> None:
    changed = ", ".join(f"{name}={value}" for name, value in other.items() if chosen.get(name) != value)
    model, layer, n = key
    where = f"{model}, layer {layer}, n {n}"
    print(f"note: {count} run(s) of {where} with other settings left out ({changed})", file=sys.stderr)


def load_published() -> pd.DataFrame:
    """The paper's own points under one formula, mean over its seeds: `analysis/published.csv`, see its README entry."""
    with files("analysis").joinpath("published.csv").open() as stream:
        return pd.read_csv(stream, comment="#")


def _row(record: Record) -> dict[str, object]:
    sizes, storage = record["sizes"], record["storage"]
    dense_values = sizes["d_in"] * record["axes"]["n"]
    spec = record["spec"]
    # All that determines a result beside the arm, its sizes, the layer and the seed.
    settings = {
        **{f"activations.{k}": v for k, v in spec["activations"].items() if k != "layer"},
        **{f"train.{k}": v for k, v in spec["train"].items()},
        **{f"eval.{k}": v for k, v in spec["eval"].items()},
    }
    row = {
        "run_id": record["run_id"],
        **{key: record["labels"][key] for key in ("model", "corpus", "arm", "sweep")},
        **{key: int(record["axes"][key]) for key in ("layer", "d", "k", "n", "seed")},
        "d_in": sizes["d_in"],
        "n_latents": sizes["n_latents"],
        "degree": sizes["degree"],
        **storage,
        **record["metrics"],
        "seconds": record["timings"]["total"],
        "finished": record["finished"],
        "settings": json.dumps(settings, sort_keys=True),
        "dense_values": dense_values,
        "decoder_compression": dense_values / storage["learned_decoder_values"],
    }
    float(row["ce_recovered"])  # a record without its main figure is not one
    return row
