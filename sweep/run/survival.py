"""How far the latents of an SAE that was made smaller are still those of the SAE that it was made of."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_core.arms import Arm, Compressed
from sae_core.correlation import code_matrix, correlations
from sae_core.formats import codes_of
from sae_core.quantised import rounding_measures
from sae_core.sae import SAE
from sweep.measures.clean import CleanPass
from sweep.measures.measures import held_out_codes
from sweep.store.files import replaced

LATENTS = "latents.csv"  # in a run's folder
ALIKE = 0.9  # the correlation from which on a latent counts as the same
COLUMNS = ("latent", "original", "correlation", "fired", "original_fired")


def compressed_part(arm: Arm) -> Compressed | None:
    """Return the arm that made an SAE smaller, inside of those that round it; None where none did."""
    inner = getattr(arm, "of", None)
    return arm if isinstance(arm, Compressed) else inner if isinstance(inner, Compressed) else None


@torch.inference_mode()
def survival(arm: Compressed, sae: SAE, sample: torch.Tensor | None, clean: CleanPass, folder: Path) -> dict[str, Any]:
    """Compare the latents of an SAE, read by its own encoder, with those that they were, on all held-out tokens.

    The table of all latents goes to `LATENTS` in `folder`: for each the number of the original's that it is, the
    correlation of the two's codes (empty where one of both never fires), and the tokens that each fires on.

    Args:
        sample: the activations by which it was decided which latents are kept (`Compressed.kept_latents`).

    Returns:
        those of `sae_core.quantised.rounding_measures`, of the latents that are kept, and
        removed  share of the latents that fire in the original and were not kept
        survived  share of the latents that fire in the original whose correlation with what they became is at least .9
    """
    scale = float(sae.scale)
    kept = arm.kept_latents(scale, sample).numpy()
    found = held_out_codes(sae, clean).read
    after = code_matrix(sae.of_atoms(found.codes), sae.of_atoms(found.indices), sae.dictionary.n_latents)
    h = torch.cat([batch.h.float().cpu() for batch in clean])
    whole = codes_of(arm.of.blocks(scale), arm.of.header, h)
    before, fired = whole[:, kept], np.diff(whole.indptr)
    alike = correlations(before, after)
    columns = kept, alike, np.diff(after.indptr), fired[kept]
    with replaced(folder / LATENTS) as temporary, open(temporary, "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for latent, (original, correlation, now, then) in enumerate(zip(*columns, strict=True)):
            table.writerow([latent, original, "" if np.isnan(correlation) else f"{correlation:.4f}", now, then])
    alive = fired > 0
    count = max(1, int(alive.sum()))
    removed, survived = 1 - alive[kept].sum() / count, (np.nan_to_num(alike) >= ALIKE).sum() / count
    return {**rounding_measures(before, after), "removed": float(removed), "survived": float(survived)}
