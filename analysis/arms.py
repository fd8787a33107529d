"""The arms: what they are called in figures, which family each is of, and one colour each, the same in every figure.

A label is `base`, then `+pursuit` where a pursuit trained it, then `-8bit` where its values are rounded:
`expander+mp_refit-4bit`. An arm that is not listed here is drawn too, by its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from zlib import crc32

SPARSE = ("expander", "expander_balanced", "clustered", "banded", "pruned_retuned", "dynamic", "frozen_random")
DENSE = ("dense_tied", "dense_warmtied", "dense_randinit")  # all n latents: ignore d, a level to reach
MATCHED = (
    "dense_matched", "dense_matched_parameters", "dense_matched_bytes",
    "dense_matched_own", "dense_matched_own_parameters", "dense_matched_own_bytes",
)  # fmt: skip
PCA, FROZEN = "pca", "frozen_random"
REFERENCE = "dense_tied"  # the SAE that `retained` compares with

_DRAWN = {  # name, colour (colour-blind readers can tell the main ones apart), marker
    "expander": ("expander", "#0072B2", "o"),
    "expander_balanced": ("expander, balanced rows", "#56B4E9", "p"),
    "clustered": ("clustered", "#E69F00", "^"),
    "banded": ("banded", "#A6761D", "<"),
    "pruned_retuned": ("pruned, re-tuned", "#D55E00", "v"),
    "dynamic": ("dynamic support", "#CC79A7", "D"),
    "frozen_random": ("frozen random values", "#882255", "X"),
    "dense_tied": ("dense, tied", "#000000", "s"),
    "dense_warmtied": ("dense, own encoder", "#555555", "P"),
    "dense_randinit": ("dense, random start", "#8C8C8C", "h"),
    "dense_matched": ("dense, equal values", "#009E73", "s"),
    "dense_matched_parameters": ("dense, equal parameters", "#66C2A5", "d"),
    "dense_matched_bytes": ("dense, equal bytes", "#1B5E20", "*"),
    "dense_matched_own": ("dense own, equal values", "#7E57C2", "s"),
    "dense_matched_own_parameters": ("dense own, equal parameters", "#B39DDB", "d"),
    "dense_matched_own_bytes": ("dense own, equal bytes", "#311B92", "*"),
    "pca": ("PCA (not sparse)", "#B0A160", "_"),
}
_LABEL = re.compile(r"(?P<base>[^+]+?)(\+(?P<pursuit>[^-]+))?(-(?P<bits>\d+)bit)?")


class Arm(NamedTuple):
    base: str
    pursuit: str | None  # what trained it, where that is not the one-shot encoder
    bits: int | None  # of each stored value, where rounded


def parse(label: str) -> Arm:
    """The parts of a label."""
    found = _LABEL.fullmatch(label)
    if found is None:
        return Arm(label, None, None)
    bits = found["bits"]
    return Arm(found["base"], found["pursuit"], int(bits) if bits else None)


def base(label: str) -> str:
    return parse(label).base


def unrounded(label: str) -> str:
    """The label of the arm that was rounded, or the arm's own."""
    return label.split("-")[0]


def plain(label: str) -> bool:
    """Whether the arm is neither trained by pursuit nor rounded."""
    return parse(label)[1:] == (None, None)


def display(label: str) -> str:
    """The arm's name for people."""
    arm = parse(label)
    name = _DRAWN[arm.base][0] if arm.base in _DRAWN else arm.base
    name += f", trained by {arm.pursuit}" if arm.pursuit else ""
    return name + (f", {arm.bits} bits" if arm.bits else "")


def colour(label: str) -> str:
    """#rrggbb; an arm trained by pursuit has a paler one of its base's hue."""
    arm = parse(label)
    # Of an unknown arm a dark one that is steady over runs and machines, unlike hash().
    own = _DRAWN[arm.base][1] if arm.base in _DRAWN else f"#{crc32(arm.base.encode()) & 0x7F7F7F:06x}"
    return _paler(own) if arm.pursuit else own


def marker(label: str) -> str:
    return _DRAWN[base(label)][2] if base(label) in _DRAWN else "H"


def has_degree(label: str, degree: int, d_in: int, n_latents: int, n: int) -> bool:
    """Whether the d asked for shaped the SAE: of known arms by name, of others by whether they differ from dense."""
    known = base(label)
    if known in _DRAWN:
        return known not in (*DENSE, PCA)
    return degree < d_in or n_latents != n


def in_order(labels: Iterable[str]) -> list[str]:
    """Distinct labels in this module's order, variants behind their base; unknown arms last."""
    order = list(_DRAWN)

    def place(label: str) -> tuple[int, str, str, int]:
        arm = parse(label)
        rank = order.index(arm.base) if arm.base in order else len(order)
        return rank, arm.base, arm.pursuit or "", -(arm.bits or 32)

    return sorted(set(labels), key=place)


def _paler(colour: str) -> str:
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + 0.42 * (255 - part)):02x}" for part in parts)
