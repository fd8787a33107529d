"""What each latent fires on: its strongest activations on held-out text and the tokens around them, for people to read.

`contexts.jsonl.gz` has one JSON object a line, in order of latents; those that never fired are left out:

    latent       which
    firing_rate  share of tokens on which it fires
    contexts     strongest first, at most one from a window: {"tokens": texts, "codes": how strongly the latent fires at
                 each, 0 where it does not}

Encoders keep the largest *signed* codes, so a latent can fire with a negative code. "Strongest" is the largest code,
not the largest magnitude: a latent that fires only below 0 shows the codes nearest to 0.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_core.activity import Activity
from sweep.store.files import replaced

_COMPRESSION = 6


def token_texts(decode: Callable[[list[int]], str]) -> Callable[[int], str]:
    """The text of one token id as it reads inside a text, remembered by id; keep it for all SAEs of an LM.

    Args:
        decode: the tokenizer's, cleaning up nothing and keeping special tokens.

    Some tokenizers drop the space that opens a text: what the second of two equal tokens adds has it. A token that is a
    part of a character reads as a replacement character.
    """

    @cache
    def text(token: int) -> str:
        once, twice = decode([token]), decode([token, token])
        return twice.removeprefix(once) if twice.startswith(once) else once

    return text


def top_contexts(
    activity: Activity, codes: Tensor, text: Callable[[int], str], per_latent: int = 5, before: int = 12, after: int = 6
) -> Iterator[dict[str, Any]]:
    """Each live latent with its `per_latent` strongest contexts, as they are written (see above).

    A context is the token with the latent's largest code in a window, `before` tokens in front of it and `after`
    behind, as far as the window goes. Of equal codes the earlier token comes first. Numbers are kept to 4 significant
    digits.

    Args:
        codes: (T, k), those of `activity.latents`; where these are -1, without meaning.
        text: of a token id, see `token_texts`.

    Raises:
        ValueError: codes of another shape, per_latent below 1, before or after below 0.
    """
    if codes.shape != activity.latents.shape:
        raise ValueError(f"codes of shape {tuple(codes.shape)} must be {tuple(activity.latents.shape)}, as the latents")
    for name, value, least in (("per_latent", per_latent, 1), ("before", before, 0), ("after", after, 0)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    return _top_contexts(activity, codes, text, per_latent, before, after)


def write_contexts(path: Path, found: Iterable[dict[str, Any]]) -> None:
    """Write what `top_contexts` finds: whole or not at all, the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary, open(temporary, "wb") as stream:
        # Neither time nor name go into the header: equal contexts are equal files.
        with gzip.GzipFile("", "wb", _COMPRESSION, stream, mtime=0) as packed:
            for latent in found:
                packed.write(json.dumps(latent, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _top_contexts(
    activity: Activity, codes: Tensor, text: Callable[[int], str], per_latent: int, before: int, after: int
) -> Iterator[dict[str, Any]]:
    fired = _Firings(*activity.firings(), codes.detach()[activity.latents >= 0].double())
    peaks = _peaks(activity, fired, per_latent)
    at, inside = _around(activity, fired.token[peaks], before, after)
    around = _codes_at(fired, fired.latent[peaks], at, len(activity.tokens))
    ids, place = activity.tokens[at].unique(return_inverse=True)
    texts = [text(i) for i in ids.tolist()]
    shown = zip(place.tolist(), around.tolist(), inside.tolist(), strict=True)
    contexts = (
        {
            "tokens": [texts[i] for i, real in zip(row, reals, strict=True) if real],
            "codes": [_short(code) for code, real in zip(values, reals, strict=True) if real],
        }
        for row, values, reals in shown
    )
    counts = activity.counts()
    live, sizes = fired.latent[peaks].unique_consecutive(return_counts=True)
    rates = (counts[live].double() / len(activity.tokens)).tolist()
    for latent, rate, size in zip(live.tolist(), rates, sizes.tolist(), strict=True):
        yield {"latent": latent, "firing_rate": _short(rate), "contexts": list(islice(contexts, size))}


class _Firings(NamedTuple):
    """Each time that a latent fired, in order of tokens: three of (firings,)."""

    token: Tensor
    latent: Tensor
    code: Tensor


def _peaks(activity: Activity, fired: _Firings, per_latent: int) -> Tensor:
    """Which firings stand in the middle of a context: by latent, its strongest first, at most one from a window."""
    order = fired.code.argsort(descending=True, stable=True)
    order = order[fired.latent[order].argsort(stable=True)]
    windows = int(activity.windows.max()) + 1
    order = order[_first_of_each(fired.latent[order] * windows + activity.windows[fired.token[order]])]
    latent = fired.latent[order]
    sizes = latent.bincount()
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[latent]
    return order[rank < per_latent]


def _first_of_each(keys: Tensor) -> Tensor:
    """True where a key comes for the first time."""
    ordered, order = keys.sort(stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[order[1:]] = ordered[1:] != ordered[:-1]
    return first


def _around(activity: Activity, centre: Tensor, before: int, after: int) -> tuple[Tensor, Tensor]:
    """(tokens around each of `centre`, whether they are of its window): two of (centres, before + 1 + after)."""
    last = len(activity.tokens) - 1
    wanted = centre[:, None] + torch.arange(-before, after + 1, device=centre.device)
    at = wanted.clamp(0, last)
    return at, (at == wanted) & (activity.windows[at] == activity.windows[centre][:, None])


def _codes_at(fired: _Firings, latent: Tensor, at: Tensor, count: int) -> Tensor:
    """Code of latent[c] on tokens at[c], 0 where it does not fire: the shape of `at` (contexts, tokens)."""
    order = fired.latent.argsort(stable=True)
    keys = (fired.latent * count + fired.token)[order]
    wanted = latent[:, None] * count + at
    found = torch.searchsorted(keys, wanted).clamp_max(max(0, len(keys) - 1))
    return torch.where(keys[found] == wanted, fired.code[order][found], 0.0)


def _short(value: float) -> float:
    return float(f"{value:.4g}") if value else 0.0
