"""What an SAE preserves and finds of a synthetic model's held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_core.ground_truth import Firings, cosine_measures, feature_measures
from sae_core.inference import infer_by
from sae_core.metrics import ReconstructionSums
from sae_core.sae import SAE
from sweep.corpus.windows import Windows
from sweep.measures.config import EvaluationError
from sweep.measures.stopwatch import Stopwatch
from sweep.synthetic.model import SyntheticModel

Tick = Callable[[int, int], None]  # called with (samples done, samples in all)
_BATCH = 2048  # samples that are encoded together


@dataclass(frozen=True, eq=False)
class HeldOutSamples:
    """Samples that no training sees, and what they are made of."""

    h: Tensor  # float32 (samples, d_in)
    firings: Firings
    digest: str  # names the samples

    def batches(self) -> Iterator[Tensor]:
        """Yield the samples, a few at a time."""
        yield from self.h.split(_BATCH)


@torch.no_grad()
def held_out(model: SyntheticModel, windows: Windows) -> HeldOutSamples:
    """Make the samples of these numbers."""
    h: list[Tensor] = []
    places: list[Tensor] = []
    for done, row in enumerate(windows.tokens):
        activations = model.activations(int(row[0]) // len(row))
        h.append(model.samples(activations))
        places.append(activations.nonzero() + torch.tensor([done * len(row), 0]))
    sample, feature = torch.cat(places).T.contiguous().unbind()
    firings = Firings(sample, feature, windows.tokens.size, model.config.n_features)
    return HeldOutSamples(torch.cat(h), firings, windows.digest())


@torch.inference_mode()
def measure(sae: SAE, inference: str, model: SyntheticModel, samples: HeldOutSamples, tick: Tick) -> dict[str, Any]:
    """Measure an SAE with its codes found in one way.

    Returns:
        {"metrics": measures of reconstruction (`sae_core.metrics`) and of the features that were found
        (`sae_core.ground_truth`), with negative_codes, the share of codes below 0, which no feature has, and true_l0,
        the features that fire on a sample; "cost": see `Stopwatch.cost`}.

    Raises:
        EvaluationError: a measure is not finite.
    """
    reader = infer_by(sae, inference)
    watch, dictionary = Stopwatch(reader), sae.dictionary
    sums = ReconstructionSums(dictionary.d_in, sae.n_latents)
    fired: list[Tensor] = []
    negative = done = 0
    for batch in samples.batches():
        h = batch.to(sae.b_dec.device)
        codes, indices = watch.encode(h)
        sums.add(h, reader.decode(codes, indices), codes, indices)
        negative += int((codes < 0).sum())
        fired.append(indices.masked_fill(codes == 0, -1).cpu().long())
        done += len(h)
        tick(done, len(samples.h))
    latents, parents = torch.cat(fired), model.features.parents
    metrics = sums.result()._asdict()
    metrics |= {
        "true_l0": len(samples.firings.sample) / samples.firings.n_samples,
        "negative_codes": negative / max(1, int((latents >= 0).sum())),
        **feature_measures(latents, sae.n_latents, samples.firings, parents),
        **cosine_measures(dictionary, model.features.vectors),
    }
    for name, value in metrics.items():
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise EvaluationError(f"{name} is {value} on the held-out samples")
    return {"metrics": metrics, "cost": watch.cost()}
