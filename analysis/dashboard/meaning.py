"""The measures of what latents mean that the runs of a dashboard have, by the names that they are logged under."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sweep.store.metric_names import COVERAGE, EVAL, FEATURE_F1, probing_means, probing_name
from sweep.store.records import read_record

_BEST = 5  # latents of a probe
_ENCODER = "encoder"  # the reading that every run has


def measured(runs_dir: Path, run_ids: Collection[str]) -> tuple[str, ...]:
    """Return the names of the measures that some of the runs logged: known features first, then labelled concepts.

    Of sparse probing these are the accuracies of five latents, found by each SAE's own encoder.
    """
    found: set[str] = set()
    for run_id in run_ids:
        record = read_record(runs_dir, run_id) or {}
        found |= {name for name in (COVERAGE, FEATURE_F1) if name.removeprefix(EVAL) in (record.get("metrics") or {})}
        probing = record.get("probing") or {}
        logged = probing_means(probing)
        found |= logged.keys() & {probing_name(family, _ENCODER, _BEST) for family in probing}
    return tuple(name for name in (COVERAGE, FEATURE_F1, *sorted(found - {COVERAGE, FEATURE_F1})) if name in found)
