"""SAEs of few bits for inference: atoms and an encoder's own weights stay packed in memory as they are in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from sae_core.bases import Basis
from sae_core.codebook import CodebookDictionary
from sae_core.dictionary import Dictionary, Drawn
from sae_core.encoders import BatchTopK, Encoder, JumpReLU, OwnTopK, PositiveTopK, Refitted, inner_encoder
from sae_core.kernels.dispatch import Backend, get_backend
from sae_core.kernels.on_packed import OnPacked, best_of_blocks, blocks, unpacked
from sae_core.kernels.reference import densify
from sae_core.packing import byte_table, fits_in_a_byte, pack_rows
from sae_core.sae import SAE
from sae_core.trellis import TrellisDictionary, path_table, paths_in_bytes


class PackedDictionary(Dictionary):
    """Atoms of bytes, each of which stands for some values: whole numbers of few bits, or an entry of a codebook.

    It cannot be trained. An SAE finds codes and decodes without ever holding all atoms as floats
    (`sae_core.kernels.on_packed`); what else asks for `values` or `support` is given a copy that is made then.

    Args:
        packed: uint8 (n_latents, bytes of an atom).
        table: (256, values a byte) float32, what each byte stands for; values beyond the degree are not used. Where
            bytes are paths through a trellis, what `sae_core.trellis.path_table` returns.
        degree: the values of an atom.
        support: int (n_latents, degree), None where atoms are dense.
        d_in, drawn, basis, always_on, value_bits: see `Dictionary`.
        step_bits: the bits of a step where bytes are paths, else 0.
    """

    packed: torch.Tensor
    table: torch.Tensor
    compact_support: torch.Tensor | None  # of the least whole numbers that hold a row

    def __init__(
        self,
        packed: torch.Tensor,
        table: torch.Tensor,
        d_in: int,
        degree: int,
        support: torch.Tensor | None,
        drawn: Drawn | None,
        basis: Basis,
        always_on: int,
        value_bits: float,
        step_bits: int = 0,
    ):
        super().__init__()
        self.d_in, self.drawn, self.basis, self.always_on = d_in, drawn, basis, always_on
        self.value_bits, self._degree, self.step_bits = value_bits, degree, step_bits
        self.register_buffer("packed", packed)
        self.register_buffer("table", table)
        row_type = torch.int16 if d_in <= 1 << 15 else torch.int32
        self.register_buffer("compact_support", None if support is None else support.to(row_type))

    @property
    def support(self) -> torch.Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None if self.compact_support is None else self.compact_support.long()

    @property
    def values(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return unpacked(self.packed, self.table, self.degree, self.step_bits)

    @property
    def n_latents(self) -> int:
        return len(self.packed)

    @property
    def degree(self) -> int:
        return self._degree

    def unit_values(self, backend: str = "auto") -> torch.Tensor:
        return self.kernels(backend).unit(self.packed)

    def dense_atoms(self, part: slice = slice(None)) -> torch.Tensor:
        unit = self.kernels("auto").unit(self.packed[part])
        support = None if self.compact_support is None else self.compact_support[part].long()
        return self.basis.out_of(densify(unit, support, self.d_in))

    def kernels(self, backend: str) -> OnPacked:
        return OnPacked(get_backend(backend, self.packed.device), self.table, self.degree, self.step_bits)

    def stored_atoms(self, backend: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.packed, self.compact_support

    def set_atoms(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Raise TypeError: packed atoms cannot be trained."""
        raise TypeError("packed atoms cannot be trained: load the SAE without keep_packed=True")


class PackedTopK(OwnTopK):
    """An encoder's own weights as bytes, each of which stands for some whole numbers, with a factor for each row.

    It cannot be trained. What asks for `weight` or `rows` is given a copy that is made then.

    Args:
        packed: uint8 (n_latents, bytes of a row).
        b_enc, row_scale: (n_latents,).
        d_in: the weights of a row.
        weight_bits: the bits of a weight in a file.
    """

    packed: torch.Tensor
    table: torch.Tensor

    def __init__(
        self, packed: torch.Tensor, b_enc: torch.Tensor, row_scale: torch.Tensor, d_in: int, weight_bits: float
    ):
        nn.Module.__init__(self)
        self.d_in, self.weight_bits = d_in, weight_bits
        self.b_enc, self.row_scale = nn.Parameter(b_enc), nn.Parameter(row_scale)
        self.register_buffer("packed", packed)
        self.register_buffer("table", byte_table(weight_bits).to(row_scale))

    @property
    def weight(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return unpacked(self.packed, self.table, self.d_in)

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend | OnPacked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        floats = backend.kernels if isinstance(backend, OnPacked) else backend
        return best_of_blocks(floats, x, lambda part: (self.rows(part), None), self.d_in, self.b_enc, k)

    def products(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        for x in parts:
            found = [x @ self.rows(part).T for part in blocks(len(self.packed), self.d_in)]
            yield torch.cat(found, 1) + self.b_enc

    def rows(self, part: slice = slice(None)) -> torch.Tensor:
        """Return some rows of W_enc, all unless told which, as floats."""
        assert self.row_scale is not None
        return unpacked(self.packed[part], self.table, self.d_in) * self.row_scale[part, None]

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Raise TypeError: packed weights cannot be trained."""
        raise TypeError("packed weights cannot be trained: load the SAE without keep_packed=True")


def is_packed(sae: SAE) -> bool:
    """Tell whether atoms or an encoder's own weights are packed in memory."""
    return isinstance(sae.dictionary, PackedDictionary) or isinstance(inner_encoder(sae.encoder), PackedTopK)


@torch.no_grad()
def pack(sae: SAE) -> SAE:
    """Return an SAE for inference with the atoms of `sae` and its encoder's own weights packed; the rest is shared.

    What takes more than 8 bits a value stays as it is.

    Raises:
        ValueError: neither can be packed, or values are still trained to be rounded.
    """
    if is_packed(sae):
        return sae
    atoms = sae.dictionary if _is_long(sae.dictionary) else _packed_atoms(sae.dictionary)
    other = sae.with_dictionary(atoms).with_encoder(_packed_encoder(sae.encoder))
    if sae.dictionary.rounded_to is not None or not is_packed(other):
        raise ValueError("only an SAE whose values are whole numbers of 8 or fewer bits can be packed: round it first")
    return other


def _is_long(dictionary: Dictionary) -> bool:
    """Tell whether the values of atoms are none, or too long to be packed."""
    if isinstance(dictionary, CodebookDictionary):
        return False
    return dictionary.value_bits == 0 or not fits_in_a_byte(dictionary.value_bits)


def packed_paths(steps: torch.Tensor, bits: int, basis: Basis, dtype: torch.dtype = torch.float32) -> PackedDictionary:
    """Return atoms on paths of these steps (n_latents, d_in), see `sae_core.trellis.TrellisDictionary`, packed."""
    d_in, table = steps.shape[1], path_table(bits).to(steps.device, dtype)
    return PackedDictionary(paths_in_bytes(steps, bits), table, d_in, d_in, None, None, basis, 0, bits, bits)


def _packed_atoms(dictionary: Dictionary) -> PackedDictionary:
    if isinstance(dictionary, TrellisDictionary):
        return packed_paths(dictionary.steps, int(dictionary.value_bits), dictionary.basis, dictionary.values.dtype)
    if isinstance(dictionary, CodebookDictionary):
        bytes_, table, support = dictionary.chosen.to(torch.uint8), dictionary.codebook.detach(), None
    else:
        values, support = dictionary.values.detach(), dictionary.support
        bytes_ = pack_rows(values, dictionary.value_bits).to(values.device)
        table = byte_table(dictionary.value_bits).to(values)
    about = dictionary.drawn, dictionary.basis, dictionary.always_on, dictionary.value_bits
    return PackedDictionary(bytes_, table, dictionary.d_in, dictionary.degree, support, *about)


def _packed_encoder(encoder: Encoder) -> Encoder:
    """Return an encoder whose own weights, where there are any of 8 or fewer bits, are packed."""
    if isinstance(encoder, (BatchTopK, JumpReLU, PositiveTopK, Refitted)):
        return _around(encoder, _packed_encoder(encoder.encoder)).train(encoder.training)
    if not isinstance(encoder, OwnTopK) or isinstance(encoder, PackedTopK) or not fits_in_a_byte(encoder.weight_bits):
        return encoder
    assert encoder.row_scale is not None
    packed = pack_rows(encoder.weight, encoder.weight_bits).to(encoder.b_enc.device)
    return PackedTopK(packed, encoder.b_enc, encoder.row_scale, encoder.weight.shape[1], encoder.weight_bits)


def _around(encoder: BatchTopK | JumpReLU | PositiveTopK | Refitted, inner: Any) -> Encoder:
    """Return an encoder like the one given, with its thresholds or gains, made around another one."""
    if isinstance(encoder, JumpReLU):
        return JumpReLU(inner, encoder.threshold)
    if isinstance(encoder, PositiveTopK):
        return PositiveTopK(inner, encoder.gain)
    if isinstance(encoder, Refitted):
        return Refitted(inner)
    other = BatchTopK(inner)
    other.threshold = encoder.threshold
    return other
