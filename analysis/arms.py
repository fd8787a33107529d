"""The arms as figures and tables show them: families, names for people, and a colour and marker that never change.

A label follows the naming rule of `sae_core.arms`: the base arm's name, then `@basis` where its atoms are sparse in
another basis than the neurons', then `:n16:n4` where nested prefixes of a 16th and a quarter of its latents were
trained to reconstruct by themselves, then `+pursuit` where a pursuit trained it, or `+batch_topk`, then `-n4` where it
is the first quarter of a trained SAE's latents, then what its values take where that is fewer than 32 bits, as in
`expander@reflections64:n16:n4+mp_refit-n4-4bit`: `-4bit` where they were rounded to 4 bits after training,
`-2bit_trained` where they were trained rounded to 2 bits (`_enc4` if the encoder's own weights are to have 4,
`_from0.1` if not from the middle of training on), `-2bit_pq` where atoms are pieces out of a codebook (product
quantisation) that take 2 bits a value, `-2bit_pq_weighted` where activations choose the pieces, `-2bit_tcq` where atoms
are paths through a trellis (trellis-coded quantisation), `-2bit_tcq_weighted` where activations choose the paths.
`Arm.label` writes a label and `parse` reads one. An arm that is not listed here is drawn too, under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from zlib import crc32

SPARSE = (
    "expander",
    "expander_balanced",
    "clustered",
    "banded",
    "pruned_retuned",
    "dynamic",
    "frozen_random",
    "soft_frozen",
)
DENSE = ("dense_tied", "dense_warmtied", "dense_randinit")  # all n latents: no d, drawn as a level to reach
MATCHED = (
    "dense_matched",
    "dense_matched_parameters",
    "dense_matched_bytes",
    "dense_matched_own",
    "dense_matched_own_parameters",
    "dense_matched_own_bytes",
)
LOW_RANK, ITDA, KRON = RIVALS = ("dense_low_rank", "itda", "kron")  # other dense atoms; those of rank d have a d
PCA, FROZEN = "pca", "frozen_random"
IMPORTED = "imported"  # another library's, whose file says n
COMPRESSED = "compressed"  # an imported one that was made smaller
CONTROLS = (FROZEN, "soft_frozen")  # random dictionaries, and those that stay near them
REFERENCE = "dense_tied"  # the SAE that `retained` compares with
FLOAT_BITS = 32  # bits of a decoder value that was not rounded
_HOW = {  # ends of labels that say how values got few bits: in words
    "trained": "trained",
    "pq": "product-quantised",
    "pq_weighted": "product-quantised for activations",
    "pq_fourier": "product-quantised in a Fourier basis",
    "pq_weighted_fourier": "product-quantised for activations in a Fourier basis",
    "tcq": "trellis-coded",
    "tcq_weighted": "trellis-coded for activations",
    "tcq_fourier": "trellis-coded in a Fourier basis",
    "tcq_weighted_fourier": "trellis-coded for activations in a Fourier basis",
    "fourier": "in a Fourier basis",
    "trained_fourier": "trained in a Fourier basis",
}
_NEURONS = "neurons"  # the basis of an arm whose label names none
BATCH_TOPK = "batch_topk"  # the one-shot encoder of k latents on average
TOPK = "topk"  # the one-shot encoder, which a record names, or leaves out, where no pursuit trained the arm

_PART = re.compile(r"[0-9]+|[0-9]*n[0-9]+")  # a prefix of the latents, as labels name it
_TRAINED = {BATCH_TOPK: "BatchTopK", "own": "its own encoder"}  # words for encoders that are no pursuits

_DRAWN = {  # name, colour (colour-blind readers can tell the main ones apart), marker
    "expander": ("expander", "#0072B2", "o"),
    "expander_balanced": ("expander, balanced rows", "#56B4E9", "p"),
    "clustered": ("clustered", "#E69F00", "^"),
    "banded": ("banded", "#A6761D", "<"),
    "pruned_retuned": ("pruned, re-tuned", "#D55E00", "v"),
    "dynamic": ("dynamic support", "#CC79A7", "D"),
    "frozen_random": ("random dictionary (floor)", "#7F7F7F", "X"),
    "soft_frozen": ("kept near random", "#DDAA99", ">"),
    "dense_tied": ("dense, tied", "#000000", "s"),
    "dense_warmtied": ("dense, own encoder", "#555555", "P"),
    "dense_randinit": ("dense, random start", "#5D4037", "h"),
    "dense_matched": ("dense, equal values", "#009E73", "s"),
    "dense_matched_parameters": ("dense, equal parameters", "#66C2A5", "d"),
    "dense_matched_bytes": ("dense, equal bytes", "#1B5E20", "*"),
    "dense_matched_own": ("dense own, equal values", "#7E57C2", "s"),
    "dense_matched_own_parameters": ("dense own, equal parameters", "#B39DDB", "d"),
    "dense_matched_own_bytes": ("dense own, equal bytes", "#311B92", "*"),
    "dense_low_rank": ("dense, low rank", "#8C2D04", "P"),
    "itda": ("activations as atoms (ITDA)", "#4D7A1F", "8"),
    "kron": ("dense, Kronecker encoder", "#00695C", "H"),
    "imported": ("imported", "#C2185B", "*"),
    "compressed": ("compressed", "#C2185B", "d"),
    "pca": ("PCA (not sparse)", "#B0A160", "_"),
}


_NUMBER = r"[0-9]+(\.[0-9]+)?"
_MANNER = rf"(({'|'.join(_HOW)})(_enc{_NUMBER})?|enc{_NUMBER})(_from{_NUMBER})?"
_ROUNDED = re.compile(rf"(?P<trained>.+)-(?P<bits>{_NUMBER})bit(_(?P<how>{_MANNER}))?")
_HEADS, _SIZES = (2, 4), re.compile(r"[0-9]+x[0-9]+")  # a head's sizes where a label of KRON names none; such a name
_FROM_THE_MIDDLE = 0.5  # the share of training after which values are rounded where no label says otherwise


class Arm(NamedTuple):
    """The parts that an arm's label is made of."""

    base: str  # the arm's name without basis, pursuit and rounding
    pursuit: str | None  # the pursuit that trained it, or BATCH_TOPK; None for the one-shot encoder of k latents
    bits: float | None  # bits that each decoder value was rounded to; None where they were not rounded
    # The basis of its atoms, with the coordinates always on; None for the neurons'. Of KRON, a head's sizes: `4x8`.
    basis: str | None = None
    how: str = ""  # a key of `_HOW`, perhaps with `_from0.1`; empty where values were rounded after training, or not
    prefixes: tuple[str, ...] = ()  # nested prefixes of the latents that were trained, as `n4` or `512`
    prefix: str | None = None  # the prefix of a trained SAE's latents that it is; None where it is all of them

    @property
    def label(self) -> str:
        """The label that records and figures know the arm by."""
        basis = f"@{self.basis}" if self.basis else ""
        prefixes = "".join(f":{part}" for part in self.prefixes)
        pursuit = f"+{self.pursuit}" if self.pursuit else ""
        prefix = f"-{self.prefix}" if self.prefix else ""
        return self.base + basis + prefixes + pursuit + prefix + self.rounding

    @property
    def rounding(self) -> str:
        """The end of the label that says what values were rounded to; empty where they were not."""
        return f"-{self.bits}bit" + (f"_{self.how}" if self.how else "") if self.bits else ""

    @property
    def manner(self) -> str:
        """How values got few bits, in the words of its label: `trained fourier from0.1`; empty where after training."""
        return self.how.replace("_", " ")

    @property
    def bits_in_words(self) -> str:
        """What values were rounded to: `4 bits`, or `2 bits, trained`; empty where they were not."""
        how, _, start = self.how.partition("_from")
        how, _, encoder = f"_{how}".partition("_enc")
        words = [number_of_bits(self.bits), *([_HOW[how[1:]]] if how[1:] else [])] if self.bits else []
        words += [f"encoder {encoder} bits"] if encoder else []
        return ", ".join(words) + (f" from {start} on" if start else "")


def described(sae: Mapping[str, Any]) -> Arm:
    """Return the parts of the arm that a record's `spec["sae"]` describes."""
    trained, bits, prefix = sae, None, None
    # A rounded arm, or a prefix, holds the arm that it was made of. What a compressed one holds is not its own.
    while (of := trained.get("of")) and trained.get("arm") != COMPRESSED:
        bits, share = trained.get("bits", bits), trained.get("share")
        prefix = prefix if share is None else _part(share)
        trained = of
    pursuit = trained.get("encoder", TOPK)
    basis, always_on = trained.get("basis", _NEURONS), trained.get("always_on", 0)
    named = None if basis == _NEURONS and not always_on else basis + (f"_on{always_on}" if always_on else "")
    if trained["arm"] == KRON and (heads := (trained["base"], trained["extension"])) != _HEADS:
        named = "x".join(map(str, heads))
    how = parse(sae.get("arm", "")).how if "of" in sae else ""
    start = float(sae.get("rounded_from", _FROM_THE_MIDDLE))
    how += "" if start == _FROM_THE_MIDDLE or "_from" in how else f"_from{start:g}"
    prefixes = tuple(map(_part, trained.get("prefixes", ())))
    return Arm(trained["arm"], None if pursuit == TOPK else pursuit, bits, named, how, prefixes, prefix)


def _part(part: int | str) -> str:
    """Return a prefix as labels name it: 512, n4 for the share 1/4, 3n4 for 3/4."""
    above, _, below = str(part).partition("/")
    return f"{above if above != '1' else ''}n{below}" if below else above


def parse(label: str) -> Arm:
    """Return the parts of a label: the inverse of `Arm.label`, for places that have the label but no record."""
    rounded, prefix, bits = _ROUNDED.fullmatch(label), None, None
    if rounded is not None:
        label, bits = rounded["trained"], float(rounded["bits"]) if "." in rounded["bits"] else int(rounded["bits"])
    trained, dash, last = label.rpartition("-")
    if trained and dash and _PART.fullmatch(last):
        prefix, label = last, trained
    start, _, pursuit = label.partition("+")
    start, *prefixes = start.split(":")
    base, _, basis = start.partition("@")
    how = (rounded["how"] or "") if rounded is not None else ""
    return Arm(base, pursuit or None, bits, basis or None, how, tuple(prefixes), prefix)


def base(label: str) -> str:
    """Return the name of the base arm, without basis, pursuit and rounding."""
    return parse(label).base


def number_of_bits(bits: float) -> str:
    """Return `4 bits`, `1.58 bits` or `1 bit`."""
    return f"{bits:g} bit" + "s" * (bits != 1)


def unrounded(label: str) -> str:
    """Return the label of the arm that was rounded, or `label` itself where none was."""
    return parse(label)._replace(bits=None, how="").label


def is_usual(label: str) -> bool:
    """Return whether an arm has no basis of its own, or unusual sizes of a head, and no nested prefixes."""
    arm = parse(label)
    return arm.basis is None and not arm.prefixes and arm.prefix is None


def display(label: str) -> str:
    """Return the arm's name for people."""
    arm = parse(label)
    name = _DRAWN[arm.base][0] if arm.base in _DRAWN else arm.base
    name += f" {_in_words(arm.basis)}" if arm.basis else ""
    name += f", nested {'+'.join(map(_share, arm.prefixes))}" if arm.prefixes else ""
    way = f"{'read' if arm.base == ITDA else 'trained'} by {arm.pursuit}"
    name += f", {_TRAINED.get(arm.pursuit, way)}" if arm.pursuit else ""
    name += f", first {_share(arm.prefix)}" if arm.prefix else ""
    return name + (f", {arm.bits_in_words}" if arm.bits else "")


def _in_words(basis: str) -> str:
    """Return a basis for people: `behind 64 trained reflections`, `in fourier`, with the coordinates always on."""
    if _SIZES.fullmatch(basis):
        return f"of heads {basis}"
    name, _, always_on = basis.partition("_on")
    kind, trained = name.removesuffix("_trained"), name.endswith("_trained")
    number = kind.removeprefix("reflections")
    words = f"behind {number} {'trained ' * trained}reflections" if number.isdecimal() else f"in {name}"
    return words + (f", {always_on} always on" if always_on else "")


def _share(part: str) -> str:
    """Return a prefix in words: `n/4`, `3n/4`, `512`."""
    above, _, below = part.partition("n")
    return f"{above}n/{below}" if below else part


def colour(label: str) -> str:
    """Return the arm's colour as #rrggbb: of its base arm's hue, paler where a pursuit trained it.

    One trained by BatchTopK is darker, one of nested prefixes, or that is a prefix, a little of either.
    """
    arm = parse(label)
    # An unknown arm gets a dark colour that is the same in every run and on every machine, unlike one from hash().
    own = _DRAWN[arm.base][1] if arm.base in _DRAWN else f"#{crc32(arm.base.encode()) & 0x7F7F7F:06x}"
    if arm.prefixes or arm.prefix:
        own = _mixed(own, 255 if arm.prefix else 0, 0.25)
    if arm.pursuit:
        own = _mixed(own, 0, 0.35) if arm.pursuit == BATCH_TOPK else _mixed(own, 255, 0.42)
    return own


def marker(label: str) -> str:
    """Return the matplotlib marker of the base arm, "H" for an unknown one."""
    return _DRAWN[base(label)][2] if base(label) in _DRAWN else "H"


def has_degree(base_arm: str, degree: int, d_in: int, n_latents: int, n: int) -> bool:
    """Return whether the d asked for shaped the SAE.

    For known arms the name decides; for others whether the sizes differ from those of a dense SAE with n latents.
    """
    if base_arm in _DRAWN:
        return base_arm not in (*DENSE, ITDA, KRON, IMPORTED, PCA)
    return degree < d_in or n_latents != n


def in_order(labels: Iterable[str]) -> list[str]:
    """Return the distinct labels in this module's order: variants behind their base arm, unknown arms last."""
    order = list(_DRAWN)

    def place(label: str) -> tuple[int, str, str, tuple[str, ...], str, str, float, str]:
        arm = parse(label)
        rank = order.index(arm.base) if arm.base in order else len(order)
        trained = arm.basis or "", arm.prefixes, arm.pursuit or ""
        return rank, arm.base, *trained, arm.prefix or "", -(arm.bits or FLOAT_BITS), arm.how

    return sorted(set(labels), key=place)


def _mixed(colour: str, with_grey: int, share: float) -> str:
    """Return a colour mixed with a share of a grey, 0 for black to 255 for white."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(channel + share * (with_grey - channel)):02x}" for channel in channels)
