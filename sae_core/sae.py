"""A sparse autoencoder: a dictionary, an encoder, a decoder bias and one input scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from sae_core.dictionary import Dictionary
from sae_core.encoders import ByPursuit, Encoder, OwnTopK, inner_encoder, looks_at_energy
from sae_core.kernels.dispatch import Backend
from sae_core.kernels.on_packed import OnPacked
from sae_core.kronecker import KroneckerTopK


class SAEOutput(NamedTuple):
    """A reconstruction and the codes that it is made of."""

    reconstruction: torch.Tensor  # (tokens, d_in), in the units of the input
    codes: torch.Tensor  # (tokens, w + R), in scaled units; w = k unless k is an average
    indices: torch.Tensor  # (tokens, w + R), the latents that the codes belong to


class SAEResidual(NamedTuple):
    """The part of an input that an SAE does not reconstruct, and the codes that it used."""

    residual: torch.Tensor  # (tokens, d_in), s * (h - h_hat): the loss squares it
    codes: torch.Tensor  # (tokens, w + R), in scaled units
    indices: torch.Tensor  # (tokens, w + R), the latents that the codes belong to
    shorter: tuple[SAEResidual, ...] = ()  # the same of each prefix of the latents that is shorter than all


class SAE(nn.Module):
    """A sparse autoencoder: h_hat = (W c + b_dec) / s with k-sparse codes c of x = s * h - b_dec.

    W = Q^T A, with atoms A that are sparse in the dictionary's basis Q, or dense in its first coordinates: codes are
    found of Qx on A. A latent of code 0 does not fire. The coordinates of Qx that are always on, R of them, come behind
    the w codes of atoms (w = k unless the encoder's k is an average: `BatchTopK`), as the latents
    n_latents - R..n_latents - 1.

    Args:
        dictionary: the atoms W.
        encoder: finds the codes.
        k: active latents per token, exactly or on average as the encoder says, in 1..n_latents.
        scale: the scalar s that activations are multiplied with; the output is divided by it.
        backend: the kernels that compute, see `sae_core.kernels.dispatch`.
        prefixes: the rising sizes of the nested prefixes of atoms that `residual` looks at one by one, of which the
            last is all atoms; () where it looks at all atoms alone (`sae_core.prefixes`).

    Raises:
        ValueError: k is outside 1..n_latents, the scale is not positive and finite, or prefixes do not rise to all.
    """

    scale: torch.Tensor

    def __init__(
        self,
        dictionary: Dictionary,
        encoder: Encoder,
        k: int,
        scale: float = 1.0,
        backend: str = "auto",
        prefixes: tuple[int, ...] = (),
    ):
        super().__init__()
        if not 1 <= k <= dictionary.n_latents:
            raise ValueError(f"k={k} must be in 1..{dictionary.n_latents} (n, the latents of this SAE)")
        if not (0 < scale < float("inf")):
            raise ValueError(f"scale={scale} must be positive and finite")
        if prefixes and (list(prefixes) != sorted({0, *prefixes})[1:] or prefixes[-1] != dictionary.n_latents):
            raise ValueError(f"prefixes={list(prefixes)} must rise from at least 1 to {dictionary.n_latents} (n)")
        self.dictionary, self.encoder, self.k, self.backend = dictionary, encoder, k, backend
        self.prefixes = tuple(prefixes)
        self.b_dec = nn.Parameter(torch.zeros(dictionary.d_in))
        self.register_buffer("scale", torch.tensor(float(scale)))

    @property
    def tied(self) -> bool:
        """Whether the encoder has no weights of its own."""
        return not isinstance(inner_encoder(self.encoder), (OwnTopK, KroneckerTopK))

    @property
    def n_latents(self) -> int:
        """The latents that codes may name: the atoms, then the coordinates that are always on."""
        return self.dictionary.n_latents + self.dictionary.always_on

    def with_encoder(self, encoder: Encoder) -> SAE:
        """Return an SAE of the same dictionary, bias and scale (shared, not copied) whose codes `encoder` finds."""
        return self._sharing(self.dictionary, encoder)

    def with_dictionary(self, dictionary: Dictionary) -> SAE:
        """Return an SAE of the same encoder, bias and scale (shared, not copied) with other atoms, as many."""
        return self._sharing(dictionary, self.encoder)

    def _sharing(self, dictionary: Dictionary, encoder: Encoder) -> SAE:
        other = SAE(dictionary, encoder, self.k, float(self.scale), self.backend, self.prefixes)
        other.b_dec, other.scale = self.b_dec, self.scale
        return other

    def of_atoms(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the columns of codes or indices that are atoms', without coordinates always on: (tokens, w)."""
        return codes[:, : codes.shape[1] - self.dictionary.always_on]

    def encode(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices) of h (tokens, d_in), each (tokens, w + R); R coordinates are always on."""
        return self._encode(self._looked_at(h), *self._atoms())

    def decode(self, codes: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction (tokens, d_in), in the input's units, that `encode`'s result makes."""
        return self._decode(codes, indices, *self._atoms())

    def forward(self, h: torch.Tensor) -> SAEOutput:
        """Encode and decode h (tokens, d_in); the atoms are normalised once for both."""
        atoms = self._atoms()
        codes, indices = self._encode(self._looked_at(h), *atoms)
        return SAEOutput(self._decode(codes, indices, *atoms), codes, indices)

    def residual(self, h: torch.Tensor) -> SAEResidual:
        """Return what `forward` leaves of h (tokens, d_in), in scaled units: s * (h - h_hat) = x - W c.

        It makes no reconstruction only to subtract it again. With it comes what each of the `prefixes` leaves by
        itself: of the codes those of its own latents are taken, as Matryoshka SAEs do (arXiv 2503.17547). A pursuit's
        codes go together and would not be the best of a part; so it looks for k latents in each prefix anew.
        """

        def turned(found: SAEResidual) -> SAEResidual:
            return found._replace(residual=self.dictionary.basis.out_of(found.residual))

        found = self.residual_coordinates(h)
        return turned(found)._replace(shorter=tuple(map(turned, found.shorter)))

    def residual_coordinates(self, h: torch.Tensor) -> SAEResidual:
        """Return the same with the residual's coordinates in the dictionary's basis, Q (x - W c), in its place.

        They are as long as the residual, so that their loss is the same, and so is its gradient. Training uses them:
        it saves the way out of the basis, and with a basis that stays fixed there is no way back through it either.
        """
        atoms, u = self._atoms(), self.coordinates(h)
        *shorter, found = self._left_by_prefixes(u, *atoms)
        return found._replace(shorter=tuple(shorter))

    def _left_by_prefixes(
        self, u: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None
    ) -> Iterator[SAEResidual]:
        """Yield what each prefix leaves of coordinates u in the dictionary's basis, all atoms last."""
        kernels, n = self.kernels, self.dictionary.n_latents
        prefixes = self.prefixes or (n,)
        if isinstance(inner_encoder(self.encoder), ByPursuit):
            for size in prefixes:
                part = atoms[:size], None if support is None else support[:size]
                codes, indices = self.encoder(u, *part, min(self.k, size), kernels)
                yield self._left(u, kernels.residual(u, codes, indices, atoms, support), codes, indices)
            return
        codes, indices = self.pick(u, atoms, support)
        left = u  # of what a prefix leaves, the next one takes off the part of its further latents
        for first, last in pairwise((0, *prefixes)):
            own = codes if last == n else codes.masked_fill(indices >= last, 0.0)
            further = own.masked_fill(indices < first, 0.0) if first else own
            left = kernels.residual(left, further, indices, atoms, support)
            yield self._left(u, left, own, indices)

    def _left(self, u: torch.Tensor, left: torch.Tensor, codes: torch.Tensor, indices: torch.Tensor) -> SAEResidual:
        """Return what atoms leave of coordinates u, without the coordinates that are always on."""
        if always_on := self.dictionary.always_on:
            left = torch.cat((torch.zeros_like(left[:, :always_on]), left[:, always_on:]), 1)
        return SAEResidual(left, *self.with_always_on(u, codes, indices))

    @property
    def kernels(self) -> Backend | OnPacked:
        """The backend that computes on this SAE's device."""
        return self.dictionary.kernels(self.backend)

    def _atoms(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.dictionary.stored_atoms(self.backend)

    def coordinates(self, h: torch.Tensor) -> torch.Tensor:
        """Return Qx, the centred activations' coordinates in the dictionary's basis: (tokens, d_in)."""
        return self._centred(h, self.dictionary.basis.into)

    def _looked_at(self, h: torch.Tensor) -> torch.Tensor:
        """Return the coordinates of x that codes are found of: those that atoms use, or all for the encoder's sake."""
        return self.coordinates(h) if looks_at_energy(self.encoder) else self._centred(h, self.dictionary.coordinates)

    def _centred(self, h: torch.Tensor, into: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return Qx = s * Qh - Q b_dec, the centred activations' coordinates that `into` gives: (tokens, coordinates).

        Activations are turned before they are centred, so that the gradient of b_dec turns one row and not all.
        """
        if h.ndim != 2 or h.shape[1] != self.dictionary.d_in:
            raise ValueError(f"h of shape {tuple(h.shape)} must be (tokens, {self.dictionary.d_in})")
        shift = self.b_dec
        turned = into(h.to(shift.dtype))
        return _Centre.apply(turned, self.scale, into(shift.view(1, -1)).view(-1))  # type: ignore[return-value]

    def _encode(
        self, u: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.with_always_on(u, *self.pick(u, atoms, support))

    def pick(
        self, u: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, k), of coordinates u on what `Dictionary.stored_atoms` gives."""
        return self.encoder(u, atoms, support, self.k, self.kernels)

    def with_always_on(
        self, u: torch.Tensor, codes: torch.Tensor, indices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the coordinates that are always on to the codes of the atoms picked, and the latents that they are."""
        always_on = self.dictionary.always_on
        if not always_on:
            return codes, indices
        latents = torch.arange(self.dictionary.n_latents, self.n_latents, device=u.device)
        return torch.cat((codes, u[:, :always_on]), 1), torch.cat((indices, latents.expand(len(u), -1)), 1)

    def _decode(
        self, codes: torch.Tensor, indices: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None
    ) -> torch.Tensor:
        dictionary = self.dictionary
        picked = self.of_atoms(codes), self.of_atoms(indices)
        scaled = self.kernels.decode(*picked, atoms, support, dictionary.d_in)
        if dictionary.always_on:
            scaled = torch.cat((codes[:, -dictionary.always_on :], scaled[:, dictionary.always_on :]), 1)
        return (dictionary.basis.out_of(scaled) + self.b_dec) / self.scale


class _Centre(torch.autograd.Function):
    """x = s * h - b: one pass forward, one sum backward."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(scale)
        return torch.addcmul(-shift, h, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (scale,) = ctx.saved_tensors
        need_h, _, need_shift = ctx.needs_input_grad
        grad_h = grad * scale if need_h else None
        return grad_h, None, grad.sum(0).neg_() if need_shift else None
