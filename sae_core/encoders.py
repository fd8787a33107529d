"""Encoders, which find codes: by one product and its largest entries, or by a pursuit.

TopK encoders keep the k largest *signed* entries of z (no ReLU), as the paper does; BatchTopK applies its definition's
ReLU, and so do the encoders of other libraries' SAEs, `PositiveTopK` and `JumpReLU`. A code of 0 says that its latent
does not fire, whichever latent its index names. Codes are as wide as the encoder needs: k, or as many as may fire.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from sae_core.dictionary import Dictionary
from sae_core.kernels.dispatch import Backend
from sae_core.kernels.on_packed import OnPacked, opened
from sae_core.kronecker import KroneckerTopK
from sae_core.pursuit.solvers import canonical, solver, stops_by_gain
from sae_core.rounding import Grid, straight_through_rows


class TiedTopK(nn.Module):
    """The k largest of z = W^T x + b_enc with the dictionary's own atoms; stores b_enc (n_latents,) only."""

    def __init__(self, dictionary: Dictionary):
        super().__init__()
        self.b_enc = nn.Parameter(torch.zeros(dictionary.n_latents))

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend | OnPacked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, k), of x (tokens, d_in); `atoms` are unit values (n, degree)."""
        return backend.encode_topk(x, atoms, support, self.b_enc, k)

    @torch.no_grad()
    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Set the bias of re-aimed `latents` to 0; their weights are the dictionary's."""
        self.b_enc[latents] = 0.0


class OwnTopK(nn.Module):
    """The k largest of z = W_enc x + b_enc, with a dense weight (n_latents, d_in) of its own.

    Its columns are coordinates in the dictionary's basis, as those of atoms are. `weight_bits` below 32 says that
    `weight` holds whole numbers of so many bits, which `row_scale` multiplies row by row (`sae_core.quantised`). A
    weight that is to become such is trained as floats, and used as what it rounds to (`rounded_to`).

    Args:
        weight: W_enc.
        b_enc: (n_latents,); 0 unless given.
    """

    weight_bits: float = 32
    rounded_to: Grid | None = None
    row_scale: nn.Parameter | None  # (n_latents,), None where the weight is of 32 bits

    def __init__(self, weight: torch.Tensor, b_enc: torch.Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.b_enc = nn.Parameter(torch.zeros(len(weight)) if b_enc is None else b_enc)
        self.register_parameter("row_scale", None)

    @classmethod
    def starting(cls, dictionary: Dictionary, start: str, generator: torch.Generator) -> OwnTopK:
        """Return an untrained encoder.

        Args:
            start: where W_enc begins: "transpose", at the unit atoms (the paper's warm-tied arm), or "random", at
                N(0, 1) / sqrt(d_in) drawn by `generator`.

        Raises:
            ValueError: `start` is neither, or the dictionary is sparse.
        """
        if start not in ("transpose", "random"):
            raise ValueError(f"start={start} must be transpose or random")
        if dictionary.support is not None:
            raise ValueError("an encoder of its own is defined for dense dictionaries only")
        if start == "transpose":
            return cls(dictionary.unit_values().detach().clone())
        return cls(torch.randn(dictionary.n_latents, dictionary.d_in, generator=generator) / dictionary.d_in**0.5)

    def rows(self) -> torch.Tensor:
        """Return W_enc as it is used: (n_latents, d_in)."""
        if self.rounded_to is not None:
            return straight_through_rows(self.weight, self.rounded_to)
        return self.weight if self.row_scale is None else self.weight * self.row_scale[:, None]

    def products(self, parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield z = W_enc x + b_enc, (tokens, n_latents), of each part (tokens, d_in) of x."""
        rows = self.rows()
        for part in parts:
            yield part @ rows.T + self.b_enc

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend | OnPacked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, k), of x (tokens, d_in); the atoms are not used."""
        floats = backend.kernels if isinstance(backend, OnPacked) else backend
        return floats.encode_topk(x, self.rows(), None, self.b_enc, k)

    @torch.no_grad()
    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Aim the rows of re-aimed `latents` at `directions` (r, d_in), at unit norm, and set their bias to 0.

        Weights must not be whole numbers yet.
        """
        self.weight[latents] = nn.functional.normalize(directions, dim=1)
        self.b_enc[latents] = 0.0


class ByPursuit(nn.Module):
    """An encoder that finds codes by the pursuit called `name` (`sae_core.pursuit.solvers`); stores nothing.

    Codes carry no gradient. Under the squared error that is exact for a pursuit that ends in least squares: at the
    optimum on the picked atoms, moving the codes changes the loss by nothing to first order (envelope theorem). For
    `mp_cg{T}`, which comes near that optimum, it is nearly the gradient.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = canonical(name)

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend | OnPacked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, k), of x (tokens, d_in); `atoms` are unit values (n, degree)."""
        backend, atoms, support = opened(backend, atoms, support)
        return solver(self.name)(backend, x, atoms, support, k)

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Do nothing: this encoder has no parameters."""


class NormedPursuit(ByPursuit):
    """Matching pursuit on atoms of any norm that may come again, as SAELens defines it (`MatchingPursuitSAE`).

    Each pick is the atom w = gain * (unit atom) of the largest product <w, r> with what is left of x. Its code rises
    by this product, and r falls by <w, r> * w, so that a part of w stays in r where w is not of norm 1, and it may be
    picked again. Codes here are those of unit atoms, gain times those of SAELens.

    Args:
        gain: (n_latents,), above 0: the norms of the atoms w.
        most: the picks of a token, at most.
        stop: the norm of r below which a token gets no more picks; 0: none is small enough.
        distinct: whether a pick that adds no new atom is a token's last one.
    """

    gain: torch.Tensor

    def __init__(self, gain: torch.Tensor, most: int, stop: float, distinct: bool):
        super().__init__("mp")
        if most < 1 or not 0 <= stop < float("inf"):
            raise ValueError(f"most={most} and stop={stop} must be at least 1, and at least 0 and finite")
        self.most, self.stop, self.distinct = most, stop, distinct
        self.register_buffer("gain", gain)

    @torch.no_grad()
    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend | OnPacked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, w), of x (tokens, d_in); w is the most picks of one of these tokens.

        `atoms` are dense unit values (n, d_in). A pick that comes again is added to the first one, and has code 0.
        """
        assert support is None, "SAELens has dense atoms alone"
        left, goes_on = x.clone(), torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        picks, codes = x.new_empty(len(x), 0, dtype=torch.int64), x.new_empty(len(x), 0)
        for _ in range(self.most):
            z = (left @ atoms.T) * self.gain
            latent = z.clamp(min=0.0).argmax(1, keepdim=True)
            product = z.gather(1, latent).clamp(min=0.0).masked_fill(~goes_on, 0.0)
            code = product * self.gain[latent]
            left = left - code * atoms[latent[:, 0]]
            again = (picks == latent) & (codes > 0)
            codes = torch.cat((codes + again * code, code.masked_fill(again.any(1, keepdim=True), 0.0)), 1)
            picks = torch.cat((picks, latent), 1)
            if self.distinct:
                goes_on = goes_on & (product != 0) & ~again.any(1, keepdim=True)
            if self.stop > 0:
                goes_on = goes_on & ~(left.norm(dim=1, keepdim=True) < self.stop)
            if not bool(goes_on.any()):
                break
        return codes, picks


OneShot = TiedTopK | OwnTopK | KroneckerTopK  # the encoders of exactly k latents a token, with parameters


class BatchTopK(nn.Module):
    """The k*B largest entries of max(z, 0) over a batch of B tokens: k a token on average (arXiv 2412.06410).

    In training mode (`nn.Module.train`) a batch is compared with itself, and `threshold` follows the smallest entry
    that it keeps, as a running mean (SAELens'; the paper takes the mean over batches after training). In evaluation
    mode (`nn.Module.eval`), in which SAEs are loaded, the entries above the threshold are kept: what a token gets does
    not depend on its batch, and how many that are on other text has to be measured.

    z is that of another one-shot encoder, of which the WIDTH * k largest entries of each token are looked at, so that
    no (tokens, n_latents) is made. A token can use no more than these. On the embedded LM (k=32) one token in 500 would
    use more, and .001 of all codes are left out so.

    Args:
        encoder: the encoder whose z it is; it holds the parameters.
    """

    WIDTH = 4
    RATE = 0.01  # of the running mean: it looks back over about 100 batches

    threshold: torch.Tensor  # scalar, in the units of codes; 0 before the first batch

    def __init__(self, encoder: OneShot):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("threshold", torch.tensor(0.0))

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend | OnPacked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, min(WIDTH * k, n)), of x (tokens, d_in).

        Entries that are not kept have code 0, and those that are not finite stay, so that a broken SAE shows.
        """
        codes, indices = self.encoder(x, atoms, support, min(self.WIDTH * k, len(atoms)), backend)
        kept = self._largest(codes.detach(), k * len(codes)) if self.training else ~(codes.detach() <= self.threshold)
        return codes.masked_fill(~kept, 0.0), indices

    def _largest(self, codes: torch.Tensor, count: int) -> torch.Tensor:
        """Return which of a batch's candidates are kept, and let the threshold follow the smallest of them."""
        largest = codes.flatten().topk(count, sorted=False).indices
        kept = torch.zeros_like(codes, dtype=torch.bool).flatten().index_fill_(0, largest, True).view(codes.shape)
        kept &= ~(codes <= 0)
        smallest = codes.masked_fill(~kept, torch.inf).amin() if count else torch.full_like(self.threshold, torch.inf)
        moved = torch.where(self.threshold > 0, torch.lerp(self.threshold, smallest, self.RATE), smallest)
        self.threshold.copy_(torch.where(torch.isfinite(smallest), moved, self.threshold))
        return kept

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Re-aim `latents` in the encoder that holds the parameters."""
        self.encoder.set_rows(latents, directions)


class JumpReLU(nn.Module):
    """Every entry of z above a threshold of its latent's own, as many a token as there are (arXiv 2407.14435).

    A ReLU is the threshold 0. A gated SAE is one too: its gate and its magnitude are two thresholds and gains of the
    same product (`sae_core.formats.thresholds`).

    Args:
        encoder: makes z; it holds the parameters.
        threshold: (n_latents,), at least 0.
    """

    MOST = 1 << 22  # entries of z that are in memory at once

    threshold: torch.Tensor

    def __init__(self, encoder: OwnTopK, threshold: torch.Tensor):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("threshold", threshold)

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, w), of x (tokens, d_in); the atoms are not used.

        w is the most that fire on one of these tokens, and at least k. Entries that are not finite stay, so that a
        broken SAE shows.
        """
        rows = max(1, self.MOST // len(self.threshold))
        return joined([self._part(z, k) for z in self.encoder.products(x.split(rows) if len(x) else (x,))])

    def _part(self, z: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        fires = ~(z <= self.threshold)
        most = int(fires.sum(1).amax()) if len(z) else 0
        codes, indices = z.masked_fill(~fires, 0.0).topk(min(max(most, k), z.shape[1]), dim=1)
        return codes, indices

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Re-aim `latents` in the encoder that holds the parameters."""
        self.encoder.set_rows(latents, directions)


class PositiveTopK(nn.Module):
    """The k largest of max(z, 0), each times a gain of its latent's own.

    Args:
        encoder: makes z; it holds the parameters.
        gain: (n_latents,), above 0: the norm of the latent's atom where another library's atoms have one.
    """

    gain: torch.Tensor

    def __init__(self, encoder: OwnTopK, gain: torch.Tensor):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("gain", gain)

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), each (tokens, k), of x (tokens, d_in); the atoms are not used."""
        codes, indices = self.encoder(x, atoms, support, k, backend)
        return codes.clamp(min=0.0) * self.gain[indices], indices

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Re-aim `latents` in the encoder that holds the parameters."""
        self.encoder.set_rows(latents, directions)


Picking = OneShot | BatchTopK | JumpReLU | PositiveTopK | ByPursuit


class Refitted(nn.Module):
    """An encoder that takes another encoder's picks and gives them the best codes by one least-squares solve."""

    def __init__(self, encoder: Picking):
        super().__init__()
        self.encoder = encoder

    def forward(
        self, x: torch.Tensor, atoms: torch.Tensor, support: torch.Tensor | None, k: int, backend: Backend | OnPacked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (codes, indices), shaped as the other encoder's, of x (tokens, d_in).

        Latents that do not fire stay so. `atoms` are unit values (n, degree).
        """
        found, indices = self.encoder(x, atoms, support, k, backend)
        # Those that fire come first. The first pick stands in for the others: an atom that comes again gets code 0.
        fires, order = (found != 0).to(torch.int8).sort(dim=1, descending=True, stable=True)
        fires, indices = fires.bool(), indices.gather(1, order)
        used = max(1, int(fires.sum(1).amax())) if len(fires) else 1
        picks = torch.where(fires, indices, indices[:, :1])[:, :used].contiguous()
        codes = torch.zeros_like(found)
        codes[:, :used] = backend.refit(x, picks, atoms, support)
        return codes.masked_fill_(~fires, 0.0), indices

    def set_rows(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Re-aim `latents` in the encoder that picks."""
        self.encoder.set_rows(latents, directions)


Encoder = Picking | Refitted


def inner_encoder(encoder: Encoder) -> OneShot | ByPursuit:
    """Return the encoder that others, such as `BatchTopK` or `Refitted`, are made around; any other itself."""
    while isinstance(encoder, (BatchTopK, JumpReLU, PositiveTopK, Refitted)):
        encoder = encoder.encoder
    return encoder


def looks_at_energy(encoder: Encoder) -> bool:
    """Return whether an encoder looks at all of a token's energy, also at what no atom of a low rank reaches."""
    picks = inner_encoder(encoder)
    return isinstance(picks, ByPursuit) and stops_by_gain(picks.name)


def joined(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the (codes, indices) of all parts, one below the other, as wide as the widest; what is added has code 0.

    How wide the codes of a batch are may follow from the batch (`JumpReLU`).
    """
    width = max(codes.shape[1] for codes, _ in parts)
    codes, indices = (
        torch.cat([nn.functional.pad(part, (0, width - part.shape[1])) for part in each])
        for each in zip(*parts, strict=True)
    )
    return codes, indices
