"""What an SAE stores, each count under its own name."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import nn

from sae_core.dictionary import Dictionary
from sae_core.sae import SAE

SEED_BITS = 64


class Storage(NamedTuple):
    learned_decoder_values: int  # d*n: the paper's headline count
    compression: float  # m/d
    learned_parameters: int  # decoder values, encoder weights, both biases
    index_bits: int  # the support: 64 if a seed regenerates it, else ceil(log2 m) bits an index; 0 if dense
    value_bits: int  # of each stored decoder value; 0 where a seed regenerates them


def count_storage(sae: SAE) -> Storage:
    """The counts of `sae`; the bytes on disk are `sae_core.io.save`'s to say."""
    dictionary = sae.dictionary
    return Storage(
        learned_decoder_values=dictionary.values.numel() if _learned(dictionary) else 0,
        compression=dictionary.d_in / dictionary.degree,
        learned_parameters=sum(p.numel() for p in sae.parameters()),
        index_bits=support_bits(dictionary),
        value_bits=dictionary.value_bits if _learned(dictionary) else 0,
    )


def _learned(dictionary: Dictionary) -> bool:
    return isinstance(dictionary.values, nn.Parameter)


def bits_per_index(d_in: int) -> int:
    """ceil(log2 m): bits that name one of m rows."""
    return max(1, math.ceil(math.log2(d_in)))


def support_bits(dictionary: Dictionary) -> int:
    """Bits that the support takes: a seed where it is enough, else packed indices; none for dense atoms."""
    if dictionary.support is None:
        return 0
    if dictionary.drawn is not None:
        return SEED_BITS
    return dictionary.support.numel() * bits_per_index(dictionary.d_in)
