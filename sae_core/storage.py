"""Counts of what an SAE stores, each under its own name: for a built SAE, and for one that is only planned."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from torch import nn

from sae_core.bases import NEURONS, basis_shape, basis_values
from sae_core.codebook import ENTRIES, CodebookDictionary
from sae_core.dictionary import ActivationDictionary, Dictionary
from sae_core.encoders import BatchTopK, JumpReLU, NormedPursuit, OwnTopK, PositiveTopK, inner_encoder
from sae_core.kronecker import Heads
from sae_core.packed import PackedDictionary, PackedTopK
from sae_core.packing import packed_bytes
from sae_core.sae import SAE
from sae_core.sizes import bits_per_atom, bits_per_index
from sae_core.trellis import TrellisDictionary

SEED_BITS = 64
_OF_ATOMS = ("dictionary.values", "dictionary.codebook")  # parameters
NO_SUPPORT, FROM_SEED, AS_INDICES = "none", "seed", "indices"  # the ways in which a support is stored


class Storage(NamedTuple):
    """The numbers of values and bits that an SAE stores."""

    learned_decoder_values: int  # d*n, the paper's headline count, and the values of a basis
    compression: float  # m/d; with a basis, m*n over the count above
    learned_parameters: int  # decoder values, encoder weights, both biases, thresholds, gains and factors of rows
    index_bits: int  # bits of the support: 64 if a seed regenerates it, else ceil(log2 C(m, d)) an atom; 0 if dense
    value_bits: float  # bits of an atom's value, with its share of a codebook; 0 where a seed regenerates values
    basis_values: int  # how many of the decoder values are a basis'
    basis_bits: int  # bits of each of these; 0 where there are none
    source_bits: int  # bits that say which activations of the pool the atoms are; 0 where they are none
    encoder_bits: float  # bits of an encoder weight; 0 where the encoder has none of its own


def count_storage(sae: SAE) -> Storage:
    """Count what `sae` stores. (`sae_core.io.save` returns the bytes on disk.)"""
    dictionary = sae.dictionary
    stored = dictionary.basis.stored
    in_basis = 0 if stored is None else stored.numel()
    decoder_values = dictionary.n_latents * dictionary.degree if _learned(dictionary) else 0
    others = sum(p.numel() for name, p in sae.named_parameters() if name not in _OF_ATOMS)
    if isinstance(encoder := inner_encoder(sae.encoder), PackedTopK):  # whose weights are bytes, and no parameter
        others += len(encoder.packed) * encoder.d_in
    return Storage(
        learned_decoder_values=decoder_values + in_basis,
        compression=_compression(dictionary.d_in, dictionary.n_latents, dictionary.degree, in_basis),
        learned_parameters=decoder_values + others + _thresholds(sae),
        index_bits=support_bits(dictionary),
        value_bits=dictionary.value_bits if _learned(dictionary) else 0,
        basis_values=in_basis,
        basis_bits=dictionary.basis.value_bits if in_basis else 0,
        source_bits=source_bits(dictionary),
        encoder_bits=_encoder_bits(sae),
    )


def _encoder_bits(sae: SAE) -> float:
    """Return the bits of an encoder weight, 0 where there are none."""
    inner = inner_encoder(sae.encoder)
    return inner.weight_bits if isinstance(inner, OwnTopK) else 0 if sae.tied else 32


def _thresholds(sae: SAE) -> int:
    """Return how many thresholds or gains the encoder stores: one, or one for each latent."""
    if isinstance(sae.encoder, BatchTopK):
        return 1
    return sae.dictionary.n_latents if isinstance(sae.encoder, (JumpReLU, NormedPursuit, PositiveTopK)) else 0


def _compression(d_in: int, n_latents: int, degree: int, in_basis: int) -> float:
    """Return how many times more values a dense dictionary of as many latents has."""
    return d_in / (degree + in_basis / n_latents)


def _learned(dictionary: Dictionary) -> bool:
    kinds = CodebookDictionary, PackedDictionary, TrellisDictionary
    return isinstance(dictionary, kinds) or isinstance(dictionary.values, nn.Parameter)


def support_bits(dictionary: Dictionary) -> int:
    """Return the bits of the stored support: of a seed where one regenerates it, else of ranks; 0 if dense."""
    if dictionary.support is None:
        return 0
    if dictionary.drawn is not None:
        return SEED_BITS
    return dictionary.n_latents * bits_per_atom(dictionary.d_in, dictionary.degree)


def source_bits(dictionary: Dictionary) -> int:
    """Return the bits that say which activations of a pool the atoms are, ceil(log2 tokens) an atom; else 0."""
    if not isinstance(dictionary, ActivationDictionary):
        return 0
    return dictionary.n_latents * bits_per_index(dictionary.tokens)


class Layout(NamedTuple):
    """A description of what an SAE will store, known from its arm's sizes before anything is built."""

    d_in: int
    n_latents: int
    degree: int  # d_in where atoms are dense
    support: str = NO_SUPPORT  # or FROM_SEED, AS_INDICES
    value_bits: float = 32  # 0 where a seed regenerates the values
    own_encoder: bool = False  # whether the encoder has weights of its own
    encoder_bits: float = 32  # of each of these weights; below 32 each row has a factor beside them
    heads: Heads | None = None  # the groups that latents are in, where an own encoder has fewer rows than latents
    pursuit: str | None = None  # the pursuit that is the encoder, which then has no bias
    basis: str = NEURONS  # its name, see `sae_core.bases.names`
    basis_bits: int = 32  # of each value that the basis stores
    source_tokens: int = 0  # the activations that atoms are chosen from, where atoms are activations
    codebook: int = 0  # values of a piece, where atoms are made of pieces out of a codebook
    batch_topk: bool = False  # whether the encoder stores a threshold beside its biases
    rule: str = ""  # what else the encoder stores for each latent: "threshold" or "gain"
    file_bytes: int = 0  # of the file, where another library wrote it
    prefixes: tuple[int, ...] = ()  # sizes of the prefixes that training looks at one by one, see `sae_core.prefixes`

    @property
    def decoder_values(self) -> int:
        """Number of stored decoder values."""
        return self.n_latents * self.degree if self.value_bits else 0

    @property
    def basis_values(self) -> int:
        """Number of stored values of the basis."""
        return basis_values(self.basis, self.d_in)

    @property
    def source_bits(self) -> int:
        """Bits that say which activations the atoms are."""
        return self.n_latents * bits_per_index(self.source_tokens) if self.source_tokens else 0

    @property
    def encoder_values(self) -> int:
        """Number of stored encoder weights, factors of their rows, encoder biases and thresholds."""
        weights = self.encoder_rows * (self.d_in + (self.encoder_bits < 32)) if self.own_encoder else 0
        rule = self.n_latents if self.rule else 0
        return weights + (0 if self.pursuit else self.encoder_rows) + self.batch_topk + rule

    @property
    def encoder_rows(self) -> int:
        """Number of the encoder's rows, each with a bias of its own: one a latent, or fewer."""
        return self.heads.rows(self.n_latents) if self.heads else self.n_latents


def planned_counts(layout: Layout) -> Storage:
    """Return the counts that `count_storage` will give for the trained SAE."""
    indices = layout.n_latents * bits_per_atom(layout.d_in, layout.degree)
    learned, in_basis = layout.decoder_values + layout.basis_values, layout.basis_values
    return Storage(
        learned_decoder_values=learned,
        compression=_compression(layout.d_in, layout.n_latents, layout.degree, in_basis),
        learned_parameters=learned + layout.encoder_values + layout.d_in,
        index_bits={NO_SUPPORT: 0, FROM_SEED: SEED_BITS, AS_INDICES: indices}[layout.support],
        value_bits=layout.value_bits,
        basis_values=in_basis,
        basis_bits=layout.basis_bits if in_basis else 0,
        source_bits=layout.source_bits,
        encoder_bits=layout.encoder_bits if layout.own_encoder else 0,
    )


def planned_bytes(layout: Layout) -> int:
    """Return the exact size of the `sae.safetensors` that `sae_core.io.save` will write, header and tensors.

    Where another library wrote the SAE (`Layout.file_bytes`), it is the size of its file.

    The header is 8 bytes that hold its length, then compact JSON that names the tensors, filled up to a multiple of 8
    bytes. Tensors of wide types come first; those of one type are in order of their names.
    """
    if layout.file_bytes:
        return layout.file_bytes
    n, m = layout.n_latents, layout.d_in
    floats: dict[str, tuple[int, ...]] = {"b_dec": (m,)}
    packed: dict[str, tuple[int, ...]] = {}
    if not layout.pursuit:
        floats["b_enc"] = (layout.encoder_rows,)
    if layout.own_encoder and layout.encoder_bits == 32:
        floats["encoder_weight"] = (layout.encoder_rows, m)
    elif layout.own_encoder:
        floats["encoder_scale"] = (layout.encoder_rows,)
        packed["encoder_weight"] = (packed_bytes(layout.encoder_rows * m, layout.encoder_bits),)
    if layout.batch_topk:
        floats["threshold"] = (1,)
    if layout.rule:
        floats[layout.rule] = (n,)
    if layout.basis_values and layout.basis_bits == 32:
        floats["basis"] = basis_shape(layout.basis, m)
    elif layout.basis_values:
        packed["basis"] = (packed_bytes(layout.basis_values, layout.basis_bits),)
    if layout.support == AS_INDICES:
        packed["support"] = (packed_bytes(n, bits_per_atom(m, layout.degree)),)
    if layout.source_tokens:
        packed["sources"] = (packed_bytes(layout.source_bits, 1),)
    if layout.codebook:
        floats["codebook"] = (ENTRIES, layout.codebook)
        packed["chosen"] = (n, -(-m // layout.codebook))
    elif layout.value_bits == 32:
        floats["values"] = (n, layout.degree)
    elif layout.value_bits:
        packed["values"] = (packed_bytes(n * layout.degree, layout.value_bits),)
    header: dict[str, dict[str, object]] = {}
    end = 0
    wide, narrow = sorted(floats.items()), sorted(packed.items())
    for name, shape, dtype, width in [(*t, "F32", 4) for t in wide] + [(*t, "U8", 1) for t in narrow]:
        start, end = end, end + width * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"))
    return 8 + -(-len(text) // 8) * 8 + end
