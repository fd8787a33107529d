"""`python -m sweep.stability`: how far the latents of finished runs depend on their seeds, and on rounding."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from sae_core.io import WEIGHTS_FILE
from sweep.jobs.recorded import CHANGE_NO_RESULT, has_an_sae, job_of, parse_settings
from sweep.launch import command, explain
from sweep.machine.process import prepare_process
from sweep.run.pairs import (
    Finished,
    Pair,
    Read,
    measure_pair,
    measure_rounding,
    read,
    rounded_pairs,
    seed_pairs,
    track,
)
from sweep.store.records import Record, iterate_records, run_folder

USAGE = """python -m sweep.stability [run=ID,ID...] [KEY=VALUE ...]

Compares the saved SAEs of every two finished runs under runs_dir that differ in nothing but a seed: in all three, or in
that of the support, the values or the order alone. Each SAE is read by its own encoder on the held-out tokens that it
was measured on. Rounded SAEs whose record does not say it yet are compared with their originals. What is found goes
into the records; what is there already is not measured again.

  run=ID,ID...  pairs of these runs only
  KEY=VALUE     a setting that changes no result: runs_dir (runs), cache_dir, device, backend, threads, and where the
                LM and the text are now (model.path, corpus.path)"""


@command(USAGE, needs_words=False)
def main(arguments: list[str]) -> int:
    """Measure the pairs that are not measured yet, a line for each. Return the exit code: 0 if all went well."""
    names = [word.removeprefix("run=") for word in arguments if word.startswith("run=")]
    settings = [word for word in arguments if not word.startswith("run=")]
    given = parse_settings(settings, CHANGE_NO_RESULT, "sweep.stability")
    runs_dir = Path(given.get("runs_dir", "runs"))
    runs = list(_with_weights(_records(",".join(names), runs_dir), given, runs_dir))
    pairs, rounded = seed_pairs(runs), rounded_pairs(runs)
    if not pairs and not rounded:
        raise ValueError(
            f"no two finished runs under {runs_dir} (runs_dir) differ in a seed alone, and none was rounded: "
            "python -m sweep -m seed=0,1,2 makes such runs"
        )
    prepare_process()
    return _measure_all(pairs, rounded)


def _records(names: str, runs_dir: Path) -> list[Record]:
    """Return the records of finished runs, of all or of those named. Raise ValueError for one that is not there."""
    found = {record["run_id"]: record for _, record in iterate_records(runs_dir) if record and has_an_sae(record)}
    if not found:
        raise ValueError(f"no finished run under {runs_dir} (runs_dir)")
    asked = [name for name in names.split(",") if name and name != "all"]
    for name in asked:
        if name not in found:
            raise ValueError(f"run={name}: no finished run of that id under {runs_dir} (runs_dir)")
    return [found[name] for name in asked or found]


def _with_weights(records: Sequence[Record], given: DictConfig, runs_dir: Path) -> Iterator[Finished]:
    """Yield the runs whose SAE is there; name the others."""
    for record in records:
        if not (run_folder(runs_dir, record["run_id"]) / WEIGHTS_FILE).is_file():
            _leave_out(record, f"it has no {WEIGHTS_FILE}")
            continue
        try:
            yield Finished(job_of(record, given, runs_dir), record)
        except ValueError as error:
            _leave_out(record, explain(error))


def _leave_out(record: Record, why: str) -> None:
    print(f"left out: {record['run_id']} {record.get('title', '')}: {why}", file=sys.stderr)


def _measure_all(pairs: Sequence[Pair], rounded: Sequence[tuple[Finished, Finished]]) -> int:
    """Measure what is lacking, and return the exit code."""
    todo = [pair for pair in pairs if not pair.done]
    total = len(todo) + len(rounded)
    print(f"{len(pairs)} pairs that differ in a seed, {len(pairs) - len(todo)} of them measured before", flush=True)
    reads, failed, done = _Reads(), 0, 0
    changed: dict[str, Finished] = {}
    for one, other, differs in [*todo, *((run, original, None) for run, original in rounded)]:
        done, started = done + 1, time.perf_counter()
        try:
            first, second = reads.of(one), reads.of(other)
            if differs is None:
                said = _rounding_in_words(measure_rounding(one, first, second))
            else:
                said = f"{differs}: {_pair_in_words(measure_pair(Pair(one, other, differs), first, second))}"
            changed[one.run_id] = one
        except (ValueError, OSError, RuntimeError) as error:  # the SAE cannot be read, or its text is another now
            failed += 1
            said = f"not measured: {explain(error) if isinstance(error, ValueError | OSError) else error}"
        beside = "its original" if differs is None else f"s{other.job.seeds_in_words}"
        took = f"{time.perf_counter() - started:.0f} s"
        print(f"[{done}/{total}] {one.job.title} and {beside}, {said}, {took}", flush=True)
    for run in changed.values():
        track(run)
    return 1 if failed else 0


class _Reads:
    """The SAEs of the last few runs with their codes: pairs of one configuration stand together."""

    KEPT = 12

    def __init__(self):
        self._kept: dict[str, Read] = {}
        self._stage = ""

    def of(self, run: Finished) -> Read:
        """Return a run's SAE with its codes."""
        if run.run_id not in self._kept:
            if run.job.threads is not None:
                torch.set_num_threads(run.job.threads)
            found = read(run, self._say)
            while len(self._kept) >= self.KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[run.run_id] = found
        return self._kept[run.run_id]

    def _say(self, stage: str, *_: Any) -> None:
        if stage != self._stage:
            self._stage = stage
            print(stage, flush=True)


def _pair_in_words(found: dict[str, Any]) -> str:
    def score(name: str) -> str:
        return "none" if found[name] is None else f"{found[name]:.3f}"

    return (
        f"match {score('functional_match')} (chance {score('functional_match_chance')}), "
        f"above .9: {score('above_90')}, PW-MCC {score('pw_mcc')} (chance {score('pw_mcc_chance')}, "
        f"at most {score('pw_mcc_ceiling')})"
    )


def _rounding_in_words(found: dict[str, float | None]) -> str:
    if found["correlation"] is None:
        return "no latent fires"
    return f"correlation of latents {found['correlation']:.3f}, below .9: {found['below_90']:.3f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
