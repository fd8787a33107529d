"""Counts of what an SAE stores, each under its own name: for a built SAE, and for one that is only planned."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from torch import nn

from sae_core.dictionary import Dictionary
from sae_core.sae import SAE

SEED_BITS = 64
NO_SUPPORT, FROM_SEED, AS_INDICES = "none", "seed", "indices"  # the ways in which a support is stored


class Storage(NamedTuple):
    """The numbers of values and bits that an SAE stores."""

    learned_decoder_values: int  # d*n: the paper's headline count
    compression: float  # m/d
    learned_parameters: int  # decoder values, encoder weights, both biases
    index_bits: int  # bits of the support: 64 if a seed regenerates it, else ceil(log2 m) an index; 0 if dense
    value_bits: int  # bits of each stored decoder value; 0 where a seed regenerates them


def count_storage(sae: SAE) -> Storage:
    """Count what `sae` stores. (`sae_core.io.save` returns the bytes on disk.)"""
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
    """Return ceil(log2 m), the number of bits that name one of m rows."""
    return max(1, math.ceil(math.log2(d_in)))


def support_bits(dictionary: Dictionary) -> int:
    """Return the bits of the stored support: of a seed where one regenerates it, else of packed indices; 0 if dense."""
    if dictionary.support is None:
        return 0
    if dictionary.drawn is not None:
        return SEED_BITS
    return dictionary.support.numel() * bits_per_index(dictionary.d_in)


class Layout(NamedTuple):
    """A description of what an SAE will store, known from its arm's sizes before anything is built."""

    d_in: int
    n_latents: int
    degree: int  # d_in where atoms are dense
    support: str = NO_SUPPORT  # or FROM_SEED, AS_INDICES
    value_bits: int = 32  # 0 where a seed regenerates the values
    own_encoder: bool = False  # whether the encoder has weights of its own
    pursuit: str | None = None  # the pursuit that is the encoder, which then has no bias

    @property
    def decoder_values(self) -> int:
        """Number of stored decoder values."""
        return self.n_latents * self.degree if self.value_bits else 0

    @property
    def encoder_values(self) -> int:
        """Number of stored encoder weights and encoder biases."""
        weights = self.n_latents * self.d_in if self.own_encoder else 0
        return weights + (0 if self.pursuit else self.n_latents)


def planned_counts(layout: Layout) -> Storage:
    """Return the counts that `count_storage` will give for the trained SAE."""
    indices = layout.n_latents * layout.degree * bits_per_index(layout.d_in)
    return Storage(
        learned_decoder_values=layout.decoder_values,
        compression=layout.d_in / layout.degree,
        learned_parameters=layout.decoder_values + layout.encoder_values + layout.d_in,
        index_bits={NO_SUPPORT: 0, FROM_SEED: SEED_BITS, AS_INDICES: indices}[layout.support],
        value_bits=layout.value_bits,
    )


def planned_bytes(layout: Layout) -> int:
    """Return the exact size of the `sae.safetensors` that `sae_core.io.save` will write, header and tensors.

    The header is 8 bytes that hold its length, then compact JSON that names the tensors, filled up to a multiple of 8
    bytes. Tensors of wide types come first; those of one type are in order of their names.
    """
    n, m = layout.n_latents, layout.d_in
    floats: dict[str, tuple[int, ...]] = {"b_dec": (m,)}
    packed: dict[str, tuple[int, ...]] = {}
    if not layout.pursuit:
        floats["b_enc"] = (n,)
    if layout.own_encoder:
        floats["encoder_weight"] = (n, m)
    if layout.support == AS_INDICES:
        packed["support"] = (-(-n * layout.degree * bits_per_index(m) // 8),)
    if layout.value_bits == 32:
        floats["values"] = (n, layout.degree)
    elif layout.value_bits:
        packed["values"] = (-(-n * layout.degree * layout.value_bits // 8),)
    header: dict[str, dict[str, object]] = {}
    end = 0
    for name, shape, dtype, width in [(*t, "F32", 4) for t in floats.items()] + [(*t, "U8", 1) for t in packed.items()]:
        start, end = end, end + width * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"))
    return 8 + -(-len(text) // 8) * 8 + end
