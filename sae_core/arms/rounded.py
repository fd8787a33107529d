from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from sae_core.arms.base import Arm, Sizes
from sae_core.bases import BASIS_BITS, FOURIER, NEURONS, make_basis
from sae_core.hashed import later
from sae_core.quantised import turned
from sae_core.rounding import GRIDS, grid_of, grids_of
from sae_core.sae import SAE
from sae_core.storage import Layout


@dataclass(frozen=True)
class RoundedArm(Arm):
    """Another arm with its values kept as whole numbers of few bits, those of a basis of 8 bits. Abstract.

    Args:
        of: the other arm; it stores its values in 32 bits (`Arm.can_be_quantised`).
        bits: bits of each value: 16, 8, 6, 5, 4, 3, 2, 1.58 (for log2 3: -1, 0 and 1) or 1.
        rounded_in: the basis whose coordinates become whole numbers: `neurons`, or `fourier` for dense atoms. The
            residual stream of a pretrained LM has a few neurons that are far larger than the rest, and so have dense
            atoms. Few bits cut these values off, in all atoms alike. Random signs and a fast transform spread them over
            all coordinates, and store nothing (incoherence processing: Chee et al. 2023, QuIP, arXiv 2307.13304).
        encoder_bits: bits of each weight of the encoder, as `bits` unless given. An encoder without weights of its own
            takes no notice of it.
    """

    of: Arm
    bits: int | float
    rounded_in: str = later(NEURONS)
    _: KW_ONLY
    encoder_bits: int | float | None = later(None)
    suffix: ClassVar[str] = ""  # of the name, to say when values are rounded
    can_be_quantised = False

    def __post_init__(self):
        object.__setattr__(self, "bits", _checked_bits("bits", self.bits))
        if not self.of.can_be_quantised:
            raise ValueError(
                f"sae.of={self.of.name} cannot be quantised: it must be an arm that stores its values in 32 bits, and "
                "whose encoder has a row of weights for each latent or none"
            )
        if self.encoder_bits is not None:
            encoder_bits = _checked_bits("encoder_bits", self.encoder_bits)
            counts = self.of.own_encoder and encoder_bits != self.bits  # one setting must give one name
            object.__setattr__(self, "encoder_bits", encoder_bits if counts else None)
        choices = (NEURONS, FOURIER) if self.of.turns_freely else (NEURONS,)
        if self.rounded_in not in choices:
            where = "" if self.of.turns_freely else " for atoms that are not dense"
            raise ValueError(f"sae.rounded_in={self.rounded_in} must be {' or '.join(choices)}{where}")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.name + self._ending

    @property
    def label(self) -> str:
        return self.of.label + self._ending

    @property
    def _ending(self) -> str:
        basis = "" if self.rounded_in == NEURONS else f"_{self.rounded_in}"
        encoder = "" if self.encoder_bits is None else f"_enc{self.encoder_bits}"
        return f"-{self.bits}bit{self.suffix}{basis}{encoder}"

    @property
    def draws_support(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.draws_support

    @property
    def own_encoder(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.own_encoder

    def sizes(self, d_in: int) -> Sizes:
        return self.of.sizes(d_in)

    def layout(self, d_in: int) -> Layout:
        grids = grids_of(self.bits, self.encoder_bits)
        layout = self.of.layout(d_in)._replace(value_bits=grids.atoms.stored_bits, basis_bits=BASIS_BITS)
        if layout.own_encoder:
            layout = layout._replace(encoder_bits=grids.encoder.stored_bits)
        return layout if self.rounded_in == NEURONS else layout._replace(basis=self.rounded_in)

    def in_basis(self, sae: SAE, seed: int) -> SAE:
        """Return `sae` with its values as coordinates in the basis that they are rounded in, drawn from `seed`."""
        if self.rounded_in == NEURONS:
            return sae
        return turned(sae, make_basis(self.rounded_in, sae.dictionary.d_in, seed))


def _checked_bits(key: str, bits: int | float) -> int | float:
    """Return bits as `GRIDS` has them, as 2 and 2.0 must give one name. Raises ValueError for others."""
    try:
        grid_of(bits)
    except ValueError as error:
        raise ValueError(f"sae.{key.removesuffix('bits')}{error}") from None
    return next(known for known in GRIDS if known == bits)
