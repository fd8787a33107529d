"""The contexts in which each latent fires, for people to read: its strongest activations and the tokens around them.

The contexts come from held-out text. `contexts.jsonl.gz` has one JSON object a line, in order of latents; latents that
never fired are left out:

    latent       the latent's index
    firing_rate  share of tokens on which it fires
    contexts     its contexts, strongest first, at most one from a window. Each is {"tokens": the texts of its tokens,
                 "codes": the latent's code on each token, 0 where it does not fire}

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

_COMPRESSION = 6  # gzip's level


def token_texts(decode: Callable[[list[int]], str]) -> Callable[[int], str]:
    """Return a function that gives the text of a token id as it reads inside a text, and remembers it.

    Some tokenizers drop the space that opens a text. So the text of a token is what the second of two equal tokens
    adds, which has that space. A token that is only a part of a character reads as a replacement character.

    Args:
        decode: the tokenizer's method, set to clean up nothing and to keep special tokens.
    """

    @cache
    def text(token: int) -> str:
        once, twice = decode([token]), decode([token, token])
        return twice.removeprefix(once) if twice.startswith(once) else once

    return text


def top_contexts(
    activity: Activity,
    codes: Tensor,
    text: Callable[[int], str],
    per_latent: int = 5,
    before: int = 12,
    after: int = 6,
    measured: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Return an iterator over live latents, each with its strongest contexts, in the form of `contexts.jsonl.gz`.

    A context is the token with the latent's largest code in a window, with the `before` tokens in front of it and the
    `after` tokens behind it, as far as the window goes. Of equal codes the earlier token comes first. Numbers are
    rounded to 4 significant digits.

    Args:
        codes: (T, k), the codes of `activity.latents`; they mean nothing where these are -1.
        text: returns the text of a token id, see `token_texts`.
        per_latent: contexts of each latent, at most.
        measured: the number of tokens that the SAE was read on, which firing rates refer to; all of them unless given.

    Raises:
        ValueError: `codes` has another shape than the latents, `per_latent` is below 1, or `before` or `after` below 0.
    """
    if codes.shape != activity.latents.shape:
        wanted = tuple(activity.latents.shape)
        raise ValueError(f"codes of shape {tuple(codes.shape)} must have the shape of the latents, {wanted}")
    for name, value, least in (("per_latent", per_latent, 1), ("before", before, 0), ("after", after, 0)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    return _top_contexts(activity, codes, text, per_latent, before, after, measured or len(activity.tokens))


def write_contexts(path: Path, found: Iterable[dict[str, Any]]) -> None:
    """Write the latents that `top_contexts` finds to `path`: whole or not at all, and the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary, open(temporary, "wb") as stream:
        # Neither time nor name go into gzip's header, so that equal contexts are equal files.
        with gzip.GzipFile("", "wb", _COMPRESSION, stream, mtime=0) as packed:
            for latent in found:
                packed.write(json.dumps(latent, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _top_contexts(
    activity: Activity,
    codes: Tensor,
    text: Callable[[int], str],
    per_latent: int,
    before: int,
    after: int,
    measured: int,
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
    rates = (counts[live].double() / measured).tolist()
    for latent, rate, size in zip(live.tolist(), rates, sizes.tolist(), strict=True):
        yield {"latent": latent, "firing_rate": _short(rate), "contexts": list(islice(contexts, size))}


class _Firings(NamedTuple):
    """Every time that a latent fired, in order of tokens."""

    token: Tensor  # int64 (firings,)
    latent: Tensor  # int64 (firings,)
    code: Tensor  # float64 (firings,)


def _peaks(activity: Activity, fired: _Firings, per_latent: int) -> Tensor:
    """Return the firings around which contexts lie: by latent, the strongest first, at most one from a window."""
    order = fired.code.argsort(descending=True, stable=True)
    order = order[fired.latent[order].argsort(stable=True)]
    windows = int(activity.windows.max()) + 1
    order = order[_first_of_each(fired.latent[order] * windows + activity.windows[fired.token[order]])]
    latent = fired.latent[order]
    sizes = latent.bincount()
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[latent]
    return order[rank < per_latent]


def _first_of_each(keys: Tensor) -> Tensor:
    """Return a bool for each key, True where the key comes for the first time."""
    ordered, order = keys.sort(stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[order[1:]] = ordered[1:] != ordered[:-1]
    return first


def _around(activity: Activity, centre: Tensor, before: int, after: int) -> tuple[Tensor, Tensor]:
    """Return (tokens around each of `centre`, whether they are of its window), both (centres, before + 1 + after)."""
    last = len(activity.tokens) - 1
    wanted = centre[:, None] + torch.arange(-before, after + 1, device=centre.device)
    at = wanted.clamp(0, last)
    return at, (at == wanted) & (activity.windows[at] == activity.windows[centre][:, None])


def _codes_at(fired: _Firings, latent: Tensor, at: Tensor, count: int) -> Tensor:
    """Return the code of latent[c] on each token at[c], 0 where it does not fire; `at` is (contexts, tokens)."""
    order = fired.latent.argsort(stable=True)
    keys = (fired.latent * count + fired.token)[order]
    wanted = latent[:, None] * count + at
    found = torch.searchsorted(keys, wanted).clamp_max(max(0, len(keys) - 1))
    return torch.where(keys[found] == wanted, fired.code[order][found], 0.0)


def _short(value: float) -> float:
    """Round to 4 significant digits."""
    return float(f"{value:.4g}") if value else 0.0
