"""Cross-entropies of the LM alone: unchanged, and with the hook point replaced by zeros or by the mean activation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch

from sweep.lm.losses import cross_entropies, log_normalisers
from sweep.measures.clean import CleanPass
from sweep.measures.config import EvaluationError
from sweep.store.files import write_json
from sweep.store.hashes import short_hash

CLEARLY_POSITIVE = 3.0  # standard errors that an ablation must cost at least, so that a share of the cost has a meaning
_FORMAT = 2  # version of a remembered file


@dataclass(frozen=True)
class Baselines:
    """Cross-entropies that do not depend on the SAE, in nats per predicted token."""

    ce_clean: float  # the LM unchanged
    ce_zero: float  # hook point replaced by zeros
    ce_mean: float  # hook point replaced by the training pool's mean activation
    predicted_tokens: int  # every real token but the first of each window
    # Standard errors of ce_zero - ce_clean and of ce_mean - ce_clean over predicted tokens; None in older records, and
    # where there is a single token.
    ce_zero_se: float | None = None
    ce_mean_se: float | None = None

    def costs(self, ablation: str) -> bool:
        """Tell whether the ablation "zero" or "mean" clearly costs something, so that CE recovered is defined."""
        cost = getattr(self, f"ce_{ablation}") - self.ce_clean
        return cost > CLEARLY_POSITIVE * (getattr(self, f"ce_{ablation}_se") or 0.0)

    def undefined(self) -> list[str]:
        """Return a sentence for each measure that is undefined, because its ablation costs nothing that is clear."""
        said: list[str] = []
        for ablation, measure in (("zero", "ce_recovered"), ("mean", "ce_recovered_mean")):
            if not self.costs(ablation):
                ablated, error = getattr(self, f"ce_{ablation}"), getattr(self, f"ce_{ablation}_se")
                bar = "" if error is None else f", standard error {error:.2g}"
                said.append(
                    f"{measure} is undefined: {ablation} ablation takes the LM's cross-entropy from "
                    f"{self.ce_clean:.4f} to {ablated:.4f} nats (difference {ablated - self.ce_clean:+.2g}{bar}), "
                    "which is no clear cost; does the text suit the LM?"
                )
        return said


def baselines(clean: CleanPass, mean: torch.Tensor, cache: Path, key: str) -> Baselines:
    """Return the baselines of a layer: measured once per (model, layer, held-out set), then read back.

    Args:
        clean: the unchanged LM on the held-out windows, which says which tokens are ablated.
        mean: float32 (d_in,), the mean activation that mean ablation puts in place of activations.
        cache: the folder of remembered baselines.
        key: names everything else that determines them (weights, dtype, ...).

    Raises:
        EvaluationError: a cross-entropy is not finite.
    """
    ordinary = [] if clean.positions.all_tokens else [asdict(clean.positions)]
    name = short_hash(_FORMAT, key, clean.layer, clean.windows.digest(), mean.tolist(), *ordinary)
    file = cache / f"{name}.json"
    try:
        return Baselines(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        pass
    measured = _measured(clean, mean)
    with suppress(OSError):  # a full disk only costs the memory: they are measured again
        write_json(file, asdict(measured))
    return measured


@torch.inference_mode()
def _measured(clean: CleanPass, mean: torch.Tensor) -> Baselines:
    mean = mean.to(clean.device)
    values = {"zero": torch.zeros_like(mean), "mean": mean}
    costs = {name: _Costs() for name in values}
    predicted = torch.from_numpy(clean.windows.mask()[:, 1:])
    unchanged = torch.cat([batch.clean.losses.cpu() for batch in clean])
    alike = _windows_alike(clean)
    for name, value in values.items():
        for windows, losses in _ablated_losses(clean, alike, value):
            counted = predicted[windows]
            costs[name].add(losses[counted].double(), unchanged[windows][counted].double())
    clean_sum, count = float(unchanged[predicted].double().sum()), costs["zero"].count
    found = Baselines(
        ce_clean=clean_sum / count,
        ce_zero=costs["zero"].total / count,
        ce_mean=costs["mean"].total / count,
        predicted_tokens=count,
        ce_zero_se=costs["zero"].standard_error(),
        ce_mean_se=costs["mean"].standard_error(),
    )
    for name in ("ce_clean", "ce_zero", "ce_mean"):
        if not abs(getattr(found, name)) < float("inf"):
            raise EvaluationError(
                f"layer={clean.layer}: {name} is {getattr(found, name)}: the LM's logits are not finite"
            )
    return found


def _windows_alike(clean: CleanPass) -> list[list[int]]:
    """Group the windows that are the same to the LM once their chosen tokens have one and the same activation.

    If all tokens are chosen, all windows of a length are one group. If all but the first are, windows that begin with
    the same token are, as a causal LM's activation there depends on nothing else.
    """
    if clean.lm.uses_tokens(clean.layer):
        return [[window] for window in range(len(clean.windows.tokens))]
    groups: dict[bytes, list[int]] = {}
    for part in clean.parts():
        batch = clean.batch(part)
        left = batch.hidden.masked_fill((batch.chosen | ~batch.real)[..., None], 0).cpu()
        masks = torch.stack([batch.chosen, batch.real], 1).cpu()
        for window, hidden, mask in zip(range(part.start, part.stop), left, masks, strict=True):
            seen = sha256(hidden.view(torch.uint8).numpy().data)
            seen.update(mask.numpy().data)
            groups.setdefault(seen.digest(), []).append(window)
    return list(groups.values())


def _ablated_losses(
    clean: CleanPass, alike: list[list[int]], value: torch.Tensor
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield (windows, the cross-entropy of each of their next tokens) with `value` at all chosen tokens.

    One window of each group of `alike` goes through the LM; the losses are on the CPU (windows, length - 1).
    """
    tokens = torch.from_numpy(clean.windows.tokens)
    for first in range(0, len(alike), clean.batch_size):
        groups = alike[first : first + clean.batch_size]
        hidden = torch.cat([clean.batch(slice(group[0], group[0] + 1)).replaced(value) for group in groups])
        ids = tokens[[group[0] for group in groups]].to(clean.device)
        logits = clean.lm.logits_from(ids, clean.layer, hidden)
        normalisers = log_normalisers(logits)
        for row, group in enumerate(groups):
            shared = logits[row].expand(len(group), -1, -1), normalisers[row].expand(len(group), -1)
            yield group, cross_entropies(shared[0], tokens[group].to(clean.device), shared[1]).cpu()


class _Costs:
    """What an ablation costs, summed over predicted tokens in float64."""

    def __init__(self):
        self.count, self.total = 0, 0.0  # tokens, and the sum of their losses under the ablation
        self._sum = self._squares = 0.0  # of each token's loss less its loss in the unchanged LM

    def add(self, ablated: torch.Tensor, clean: torch.Tensor) -> None:
        """Add the losses (tokens,) of the same tokens under the ablation and in the unchanged LM."""
        cost = ablated - clean
        self.count += len(cost)
        self.total += float(ablated.sum())
        self._sum += float(cost.sum())
        self._squares += float(cost.square().sum())

    def standard_error(self) -> float | None:
        """Return the standard error of the mean cost; None for a single token."""
        if self.count < 2:
            return None
        mean = self._sum / self.count
        return (max(self._squares / self.count - mean * mean, 0.0) / (self.count - 1)) ** 0.5
