"""A backend for atoms that stay packed in memory: they become floats where they are used, and only as long.

Instead of unit values (n_latents, degree) it takes bytes (n_latents, bytes an atom), of which each stands for a row of
a table (256, values a byte): a byte holds several whole numbers of few bits, or is the number of a codebook's entry.
Or the bytes of an atom are a path through a trellis, whose table has a row for all that the last bits may be.
Encoding goes through all atoms block by block, decoding makes floats of the atoms that some tokens have picked. Both
then call another backend, so that every device computes as it does on float atoms. A pursuit looks at all atoms for
every pick, so that it needs floats of all of them for the time of a call (`opened`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_core.kernels.dispatch import Backend

_BLOCK_VALUES = 1 << 20  # of atoms that are floats at the same time while codes are found: 4 MiB
_PICKED_VALUES = 1 << 21  # of atoms that some tokens have picked, at most: 8 MiB


def unpacked(packed: Tensor, table: Tensor, degree: int, step_bits: int = 0) -> Tensor:
    """Return the values that bytes (atoms, bytes) stand for: (atoms, degree), in the table's dtype."""
    if step_bits:
        return _on_paths(packed, table, degree, step_bits)
    if table.shape[1] == 1:  # whole numbers of 8 bits, in order: much faster than to look each one up
        return packed.to(table.dtype) + table[0]
    return F.embedding(packed.int(), table).flatten(1)[:, :degree]


def _on_paths(packed: Tensor, table: Tensor, degree: int, step_bits: int) -> Tensor:
    """Return the values of the states that paths go through: (atoms, degree).

    Args:
        packed: two bytes of the state before the first step, then the steps, most significant bit first.
        table: (states, values), the values of the last so many steps by the last bits of a path, at most 16 of them.
        step_bits: 1, 2 or 4.
    """
    wide = packed.int()
    words = (wide[:, :-2] << 16) | (wide[:, 1:-1] << 8) | wide[:, 2:]  # each step's state is somewhere in one
    step = step_bits * table.shape[1]
    states = torch.empty(*words.shape, 8 // step, dtype=torch.int32, device=packed.device)
    for i, shift in enumerate(range(8 - step, -1, -step)):
        torch.bitwise_and(words >> shift, len(table) - 1, out=states[:, :, i])
    return F.embedding(states.flatten(1), table).flatten(1)[:, :degree]


class OnPacked:
    """The operations of `dispatch.Backend` that no pursuit is, with packed atoms (uint8) in the place of unit values.

    A support may be of any whole numbers; it becomes int64 with the atoms.

    Args:
        kernels: the backend that computes on floats.
        table: (256, values a byte), what each byte stands for; of a trellis, see `_on_paths`.
        degree: the values of an atom.
        step_bits: the bits of a step where bytes are paths through a trellis, else 0.
    """

    def __init__(self, kernels: Backend, table: Tensor, degree: int, step_bits: int = 0):
        self.kernels, self.table, self.degree, self.step_bits = kernels, table, degree, step_bits

    def unit(self, packed: Tensor) -> Tensor:
        """Return packed atoms as floats of unit norm: (atoms, degree)."""
        return self.kernels.unit_norm(unpacked(packed, self.table, self.degree, self.step_bits).contiguous())

    def encode_topk(
        self, x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        """Compute what `reference.encode_topk` defines; the order of the k picks is unspecified."""
        return best_of_blocks(
            self.kernels, x, lambda part: (self.unit(values[part]), _wide(support, part)), self.degree, bias, k
        )

    def decode(self, codes: Tensor, indices: Tensor, values: Tensor, support: Tensor | None, d_in: int) -> Tensor:
        """Compute what `reference.decode` defines."""
        parts = [
            self.kernels.decode(codes[part], picks, unit, rows, d_in)
            for part, picks, unit, rows in self._picked(indices, values, support)
        ]
        return torch.cat(parts) if parts else codes.new_zeros(0, d_in)

    def residual(self, x: Tensor, codes: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
        """Compute what `reference.residual` defines."""
        return x - self.decode(codes, indices, values, support, x.shape[1])

    def refit(self, x: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
        """Compute what `reference.refit` defines."""
        parts = [
            self.kernels.refit(x[part], picks, unit, rows)
            for part, picks, unit, rows in self._picked(indices, values, support)
        ]
        return torch.cat(parts) if parts else x.new_zeros(indices.shape)

    def _picked(
        self, indices: Tensor, values: Tensor, support: Tensor | None
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
        """Yield, for some tokens at a time, (which, their picks among the atoms that follow, these atoms, support)."""
        tokens = max(1, _PICKED_VALUES // (self.degree * max(1, indices.shape[1])))
        for start in range(0, len(indices), tokens):
            part = slice(start, start + tokens)
            latents, picks = indices[part].unique(return_inverse=True)
            yield part, picks, self.unit(values[latents]), _wide(support, latents)


def best_of_blocks(
    kernels: Backend,
    x: Tensor,
    rows_of: Callable[[slice], tuple[Tensor, Tensor | None]],
    degree: int,
    bias: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Compute what `reference.encode_topk` defines, with the floats of some rows at a time.

    Args:
        rows_of: returns the floats of some rows, (rows, degree), and their support.
        bias: of each of the rows, which says how many there are.
    """
    codes: list[Tensor] = []
    indices: list[Tensor] = []
    for part in blocks(len(bias), degree, k):
        floats, support = rows_of(part)
        found = kernels.encode_topk(x, floats, support, bias[part], min(k, len(floats)))
        codes.append(found[0])
        indices.append(found[1] + part.start)
    if len(codes) == 1:
        return codes[0], indices[0]
    best = torch.cat(codes, 1).topk(k, dim=1)
    return best.values, torch.cat(indices, 1).gather(1, best.indices)


def blocks(rows: int, degree: int, least: int = 1) -> Iterator[slice]:
    """Yield the rows that are floats at the same time: as many as `_BLOCK_VALUES` allows, and at least `least`."""
    block = max(least, _BLOCK_VALUES // degree, 1)
    return (slice(start, start + block) for start in range(0, rows, block))


def opened(
    backend: Backend | OnPacked, values: Tensor, support: Tensor | None
) -> tuple[Backend, Tensor, Tensor | None]:
    """Return (backend, unit values, support) as floats, whatever they are."""
    if isinstance(backend, OnPacked):
        return backend.kernels, backend.unit(values), _wide(support)
    return backend, values, support


def _wide(support: Tensor | None, part: slice | Tensor = slice(None)) -> Tensor | None:
    return None if support is None else support[part].long().contiguous()
