"""SAEs of few bits for inference: their atoms stay packed in memory as they are in a file."""

from __future__ import annotations

import torch

from sae_core.bases import Basis
from sae_core.codebook import CodebookDictionary
from sae_core.dictionary import Dictionary, Drawn
from sae_core.kernels.dispatch import get_backend
from sae_core.kernels.on_packed import OnPacked, unpacked
from sae_core.kernels.reference import densify
from sae_core.packing import byte_table, pack_rows
from sae_core.sae import SAE


class PackedDictionary(Dictionary):
    """Atoms of bytes, each of which stands for some values: whole numbers of few bits, or an entry of a codebook.

    It cannot be trained. An SAE finds codes and decodes without ever holding all atoms as floats
    (`sae_core.kernels.on_packed`); what else asks for `values` or `support` is given a copy that is made then.

    Args:
        packed: uint8 (n_latents, bytes of an atom).
        table: (256, values a byte) float32, what each byte stands for; values beyond the degree are not used.
        degree: the values of an atom.
        support: int (n_latents, degree), None where atoms are dense.
        d_in, drawn, basis, always_on, value_bits: see `Dictionary`.
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
    ):
        super().__init__()
        self.d_in, self.drawn, self.basis, self.always_on = d_in, drawn, basis, always_on
        self.value_bits, self._degree = value_bits, degree
        self.register_buffer("packed", packed)
        self.register_buffer("table", table)
        row_type = torch.int16 if d_in <= 1 << 15 else torch.int32
        self.register_buffer("compact_support", None if support is None else support.to(row_type))

    @property
    def support(self) -> torch.Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return None if self.compact_support is None else self.compact_support.long()

    @property
    def values(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return unpacked(self.packed, self.table, self.degree)

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
        return OnPacked(get_backend(backend, self.packed.device), self.table, self.degree)

    def stored_atoms(self, backend: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.packed, self.compact_support

    def set_atoms(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Raise TypeError: packed atoms cannot be trained."""
        raise TypeError("packed atoms cannot be trained: load the SAE without keep_packed=True")


@torch.no_grad()
def pack(sae: SAE) -> SAE:
    """Return an SAE for inference with the atoms of `sae` packed; encoder, bias and basis are shared, not copied.

    Raises:
        ValueError: the values of `sae` take 32 bits or none, or are still trained to be rounded.
    """
    dictionary = sae.dictionary
    if isinstance(dictionary, PackedDictionary):
        return sae
    if isinstance(dictionary, CodebookDictionary):
        bytes_, table, support = dictionary.chosen.to(torch.uint8), dictionary.codebook.detach(), None
    elif not 0 < dictionary.value_bits <= 8 or dictionary.rounded_to is not None:
        raise ValueError("only an SAE whose values are whole numbers of 8 or fewer bits can be packed: round it first")
    else:
        bytes_, support = pack_rows(dictionary.values, dictionary.value_bits), dictionary.support
        bytes_, table = bytes_.to(sae.b_dec.device), byte_table(dictionary.value_bits).to(sae.b_dec)
    about = dictionary.drawn, dictionary.basis, dictionary.always_on, dictionary.value_bits
    other = PackedDictionary(bytes_, table, dictionary.d_in, dictionary.degree, support, *about)
    return sae.with_dictionary(other)
