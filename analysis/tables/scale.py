"""What very many atoms take: time, memory and bytes on disk, beside what as many dense atoms would."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.arms import FLOAT_BITS, FROZEN, REFERENCE, SPARSE
from analysis.frames import among, dicts, distinct, only, part, where
from analysis.read.sources import NoRunsError
from analysis.tables.stats import over_seeds

ENOUGH = 3  # numbers of atoms that make a curve
MEASURES = {  # column of runs: what a panel of it shows
    "seconds_a_million": "seconds of training a million tokens",
    "trained_bytes": "bytes in training (computed):\nvalues, gradient, moments, support",
    "artifact_bytes": "bytes on disk (sae.safetensors)",
}
_FLOAT_BYTES = 4
_TRAINED_FLOATS = 4  # for each learned value: itself, its gradient and Adam's two moments
_ROW_BYTES = 8  # of the number of a row in a support
_BY = ["model", "layer", "k", "arm", "d", "d_in", "n_latents"]


def scale_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (measure, model, layer, k, arm, d, n_latents), averaged over seeds, of sparse trained arms.

    Columns: `what` (a key of MEASURES), model, layer, k, arm, d, d_in, n_latents, mean, half_interval (95 %), seeds.
    There are rows of the (model, layer, k, arm, d) that were measured with ENOUGH numbers of atoms. Rows of the arm
    REFERENCE with 0 seeds are computed: those of a tied dense SAE of as many latents. `trained_bytes` is computed for
    all: what the learned values, their gradients, Adam's two moments and the support take, without the LM and buffers.
    (The peak memory of a process is in a run's record, but it holds the LM and what earlier runs have freed.)

    Raises:
        NoRunsError: there is no such curve.
    """
    sparse = only(among(runs, "base_arm", [arm for arm in SPARSE if arm != FROZEN]), bits=FLOAT_BITS, basis_values=0)
    curves = where(sparse, distinct(sparse, ["model", "layer", "k", "arm", "d"], "n_latents") >= ENOUGH)
    if curves.empty:
        raise NoRunsError(
            f"no arm has {ENOUGH} numbers of atoms at one d and k; python -m sweep experiment=scale/million"
        )
    curves = curves.assign(
        seconds_a_million=1e6 * curves["train_seconds"] / curves["train_tokens"],
        trained_bytes=_FLOAT_BYTES * _TRAINED_FLOATS * curves["learned_parameters"]
        + _ROW_BYTES * curves["n_latents"] * curves["degree"],
    )
    measured = [over_seeds(where(curves, curves[what].notna()), _BY, what).assign(what=what) for what in MEASURES]
    sizes = part(curves, ["model", "layer", "k", "d_in", "n_latents"]).drop_duplicates()
    table = pd.concat([*measured, pd.DataFrame(_dense(sizes))], ignore_index=True)
    place = [list(MEASURES).index(what) for what in table["what"]]
    by = ["place", "model", "layer", "k", "arm", "d", "n_latents"]
    table = table.assign(place=place).sort_values(by, ignore_index=True)
    return part(table, ["what", *_BY, "mean", "half_interval", "seeds"])


def _dense(sizes: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Yield the computed rows of a dense SAE of each size."""
    for row in dicts(sizes):
        m, n = row["d_in"], row["n_latents"]
        learned = m * n + n + m
        for what, floats in (("trained_bytes", _TRAINED_FLOATS * learned), ("artifact_bytes", learned)):
            yield {**row, "arm": REFERENCE, "what": what, "mean": float(_FLOAT_BYTES * floats), "seeds": 0}
