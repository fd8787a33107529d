"""Whole numbers packed into bytes, as files of SAEs hold them: supports, values of few bits, numbers of activations.

A support is written as one number for each atom, its rank among all sets of d of the m rows. With the rows
r_1 < ... < r_d it is C(r_1, 1) + C(r_2, 2) + ... + C(r_d, d), which numbers the sets 0..C(m, d) - 1 (the combinatorial
number system: Knuth, The art of computer programming 4A, section 7.2.1.3). ceil(log2 C(m, d)) bits hold it: no code of
fixed length is shorter, and the order of d indices, which means nothing, takes no bits.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate

import numpy as np
import torch

from sae_core.rounding import STORED_GRIDS
from sae_core.sizes import bits_per_atom, bits_per_index

_DIGITS = 5  # numbers of three values that one byte holds: 3^5 = 243
_TERNARY_BITS = 8 / _DIGITS
_ROWS = 4000  # packed at once: a multiple of 40, so many rows of any length fill whole bytes
_WHOLE_BYTES = {8: ">u1", 16: ">u2"}  # widths that need no bits shifted, and the numbers that their bytes are
_POWERS = 3 ** np.arange(_DIGITS - 1, -1, -1)


def packed_bytes(count: int, width: float) -> int:
    """Return the bytes that `count` numbers of `width` bits take: whole bits, or 1.6 for five numbers a byte."""
    return -(-count // _DIGITS) if width == _TERNARY_BITS else -(-count * int(width) // 8)


def pack_support(support: torch.Tensor, d_in: int) -> torch.Tensor:
    """Pack each atom's rank into ceil(log2 C(d_in, d)) bits, most significant bit first: uint8 (bytes,).

    Args:
        support: int (n_latents, degree), each atom's rows sorted and distinct.
    """
    counts = _set_counts(d_in, support.shape[1])
    ranks = [sum(of[row] for of, row in zip(counts, rows, strict=True)) for rows in support.tolist()]
    width = bits_per_atom(d_in, support.shape[1])
    whole = -(-width // 8)
    each = np.frombuffer(b"".join(rank.to_bytes(whole, "big") for rank in ranks), dtype=np.uint8).reshape(-1, whole)
    return torch.from_numpy(np.packbits(np.unpackbits(each, axis=1)[:, 8 * whole - width :]))


def unpack_support(packed: torch.Tensor, d_in: int, n_latents: int, degree: int) -> torch.Tensor:
    """Undo `pack_support`: int64 (n_latents, degree). Bytes that it did not write give rows that may be no support."""
    width, counts = bits_per_atom(d_in, degree), _set_counts(d_in, degree)
    bits = np.unpackbits(packed.numpy(), count=n_latents * width).reshape(n_latents, width)
    padded = np.pad(bits, ((0, 0), (-width % 8, 0)))
    support = np.empty((n_latents, degree), dtype=np.int64)
    for rows, each in zip(support, np.packbits(padded, axis=1), strict=True):
        rank = int.from_bytes(each.tobytes(), "big")
        for i in reversed(range(degree)):
            rows[i] = row = bisect_right(counts[i], rank) - 1
            rank -= counts[i][row]
    return torch.from_numpy(support)


def _set_counts(d_in: int, degree: int) -> list[list[int]]:
    """Return C(row, i) for i = 1..degree and each row: the number of sets of i rows that all lie below it."""
    counts = [list(range(d_in))]
    while len(counts) < degree:  # C(row, i + 1) is the sum of C(r, i) over r < row
        counts.append([0, *accumulate(counts[-1][:-1])])
    return counts


def unpack_indices(packed: torch.Tensor, d_in: int, n_latents: int, degree: int) -> torch.Tensor:
    """Return the support that older files hold as indices of ceil(log2 d_in) bits each: int64 (n_latents, degree)."""
    indices = _unpack(packed, bits_per_index(d_in), n_latents * degree)
    return torch.from_numpy(indices.reshape(n_latents, degree))


def pack_values(values: torch.Tensor, value_bits: float) -> torch.Tensor:
    """Return values as a file holds them: floats, or packed whole numbers of fewer than 32 bits.

    Whole numbers of b bits, 4 or more, are shifted by 2^(b-1), so that none is negative. Those of fewer are counted
    from the grid's least number on (`sae_core.rounding.GRIDS`); of three numbers, five make a byte, as digits of
    base 3.
    """
    if value_bits == 32:
        return values
    shift, distance = _numbering(value_bits)
    counted = (values.detach().cpu().numpy().astype(np.int64) + shift) // distance
    return _pack_digits(counted) if value_bits == _TERNARY_BITS else _pack(counted, int(value_bits))


def unpack_values(packed: torch.Tensor, value_bits: float, shape: tuple[int, ...]) -> torch.Tensor:
    """Undo `pack_values` for whole numbers: float32 of this shape. Raises ValueError for a byte that is wrong."""
    shift, distance = _numbering(value_bits)
    count = math.prod(shape)
    counted = _unpack_digits(packed, count) if value_bits == _TERNARY_BITS else _unpack(packed, int(value_bits), count)
    return torch.from_numpy((counted * distance - shift).astype(np.float32)).view(shape)


def pack_steps(steps: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack steps of paths, in 0..2^bits - 1, into `bits` bits each, most significant bit first: uint8 (bytes,)."""
    return _pack(steps.cpu().numpy(), bits)


def unpack_steps(packed: torch.Tensor, bits: int, shape: tuple[int, int]) -> torch.Tensor:
    """Undo `pack_steps`: uint8 of this shape."""
    return torch.from_numpy(_unpack(packed, bits, math.prod(shape)).astype(np.uint8)).view(shape)


def pack_rows(values: torch.Tensor, value_bits: float) -> torch.Tensor:
    """Pack whole numbers (rows, columns) as they lie in memory: uint8 (rows, bytes), where no byte is of two rows.

    Where numbers of so many bits do not fill a byte, each takes the least bits that do (`bits_in_memory`).
    """
    value_bits = bits_in_memory(value_bits)
    fewest = STORED_GRIDS[value_bits].nearest(values.new_full((1,), -torch.inf))
    per = values_a_byte(value_bits)
    padded = torch.cat((values, fewest.expand(len(values), -values.shape[1] % per)), 1)
    packed = torch.cat([pack_values(rows, value_bits) for rows in padded.split(_ROWS)])
    return packed.view(len(values), padded.shape[1] // per)


def align_rows(packed: torch.Tensor, value_bits: float, shape: tuple[int, int]) -> torch.Tensor:
    """Return what `pack_values` made of whole numbers of this shape as `pack_rows` does; a few rows become floats.

    Raises ValueError for a byte that is wrong.
    """
    rows, columns = shape
    if value_bits == _TERNARY_BITS:
        _check_digits(packed)
    per = values_a_byte(value_bits)
    if rows == 0 or (columns % per == 0 and value_bits == bits_in_memory(value_bits)):
        return packed.view(rows, -(-columns // per))
    parts = packed.split(packed_bytes(_ROWS * columns, value_bits))
    counts = (min(_ROWS, rows - first) for first in range(0, rows, _ROWS))
    found = (unpack_values(part, value_bits, (n, columns)) for part, n in zip(parts, counts, strict=True))
    return torch.cat([pack_rows(part, value_bits) for part in found])


def fits_in_a_byte(value_bits: float) -> bool:
    """Tell whether a byte in memory holds one or more whole numbers of so many bits."""
    return value_bits <= 8


def bits_in_memory(value_bits: float) -> float:
    """Return the bits that a whole number takes in memory: the least, at least `value_bits`, that fill a byte evenly.

    Raises ValueError for numbers that no byte holds.
    """
    if not fits_in_a_byte(value_bits):
        raise ValueError(f"no byte holds a whole number of {value_bits:g} bits")
    return next(width for width in (1, _TERNARY_BITS, 2, 4, 8) if width >= value_bits)


def values_a_byte(value_bits: float) -> int:
    """Return how many whole numbers of so many bits a byte in memory holds."""
    width = bits_in_memory(value_bits)
    return _DIGITS if width == _TERNARY_BITS else 8 // int(width)


def byte_table(value_bits: float) -> torch.Tensor:
    """Return the whole numbers that each byte in memory holds: float32 (256, numbers a byte).

    Bytes that five digits of base 3 cannot make stand for zeros.
    """
    value_bits = bits_in_memory(value_bits)
    every, per = torch.arange(256, dtype=torch.uint8), values_a_byte(value_bits)
    known = every[: 3**_DIGITS] if value_bits == _TERNARY_BITS else every
    table = torch.zeros(256, per)
    table[: len(known)] = unpack_values(known, value_bits, (len(known), per))
    return table


def _numbering(value_bits: float) -> tuple[int, int]:
    """Return (shift, distance): a whole number v of so many bits is packed as (v + shift) / distance."""
    grid = STORED_GRIDS[value_bits]
    if value_bits >= 4:
        return 2 ** (int(value_bits) - 1), 1
    return grid.largest, 2 if grid.odd else 1


def _pack_digits(numbers: np.ndarray) -> torch.Tensor:
    """Pack numbers in 0..2 as digits of base 3, five a byte, most significant digit first: uint8 (bytes,)."""
    padded = np.pad(numbers.ravel(), (0, -numbers.size % _DIGITS)).reshape(-1, _DIGITS)
    return torch.from_numpy((padded @ _POWERS).astype(np.uint8))


def _unpack_digits(packed: torch.Tensor, count: int) -> np.ndarray:
    """Undo `_pack_digits`: int64 (count,). Raises ValueError for a byte that five digits cannot make."""
    _check_digits(packed)
    whole = packed.numpy().astype(np.int64)
    return (whole[:, None] // _POWERS % 3).reshape(-1)[:count]


def _check_digits(packed: torch.Tensor) -> None:
    """Raise ValueError for a byte that five digits of base 3 cannot make."""
    if len(packed) and int(packed.max()) >= 3**_DIGITS:
        raise ValueError(f"a byte of {int(packed.max())} is not in 0..{3**_DIGITS - 1}, as five digits of base 3 are")


def pack_sources(sources: torch.Tensor, tokens: int) -> torch.Tensor:
    """Pack numbers of activations, in 0..tokens - 1, into ceil(log2 tokens) bits each: uint8 (bytes,)."""
    return _pack(sources.cpu().numpy(), bits_per_index(tokens))


def unpack_sources(packed: torch.Tensor, tokens: int, n_latents: int) -> torch.Tensor:
    """Undo `pack_sources`: int64 (n_latents,)."""
    return torch.from_numpy(_unpack(packed, bits_per_index(tokens), n_latents))


def _pack(numbers: np.ndarray, width: int) -> torch.Tensor:
    """Pack whole numbers in 0..2^width - 1 into `width` bits each, most significant bit first: uint8 (bytes,)."""
    if width in _WHOLE_BYTES:
        return torch.from_numpy(numbers.ravel().astype(_WHOLE_BYTES[width]).view(np.uint8))
    bits = (numbers.reshape(-1, 1) >> np.arange(width - 1, -1, -1)) & 1
    return torch.from_numpy(np.packbits(bits.astype(np.uint8)))


def _unpack(packed: torch.Tensor, width: int, count: int) -> np.ndarray:
    """Undo `_pack`: int64 (count,)."""
    if width in _WHOLE_BYTES:
        return packed.numpy()[: count * width // 8].view(_WHOLE_BYTES[width]).astype(np.int64)
    bits = np.unpackbits(packed.numpy(), count=count * width).reshape(-1, width)
    return bits.astype(np.int64) @ (1 << np.arange(width - 1, -1, -1))
