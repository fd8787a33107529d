"""SAEs that were made smaller, and those that they were made of."""

from __future__ import annotations

import pandas as pd

from analysis.arms import COMPRESSED, IMPORTED
from analysis.frames import among, only, part
from analysis.read.sources import NoRunsError

_SIZES = ["n_latents", "degree", "k", "bits"]
_FOUND = ["artifact_bytes", "ce_recovered", "ce_recovered_mean", "fvu", "survived"]


def compressed_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per run of a compressed or imported SAE, the largest files first.

    Columns: model, layer, arm, base_arm, reading (what finds its codes), sizes, bits, `artifact_bytes`, CE recovered
    against zero and mean ablation, FVU, `survived` (the share of the original's latents that correlate by .9 or more
    with what they became; empty for an original), and run_id.

    Raises:
        NoRunsError: no SAE was made smaller.
    """
    found = among(runs, "base_arm", [COMPRESSED, IMPORTED])
    if only(found, base_arm=COMPRESSED).empty:
        raise NoRunsError("no SAE was made smaller; python -m sweep.compress does it")
    table = part(found, ["model", "layer", "arm", "base_arm", "reading", *_SIZES, *_FOUND, "run_id"])
    by = ["model", "layer", "artifact_bytes", "run_id"]
    return table.sort_values(by, ascending=[True, True, False, True], ignore_index=True)
