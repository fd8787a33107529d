from __future__ import annotations

import math

import numpy as np
import torch

from sae_core.bases.base import Basis, BasisName


class Fourier(Basis):
    """Random signs, then the discrete Hartley transform: Qx = H (s * x). The control; nothing of it is stored.

    H_jk = (cos(2 pi jk / m) + sin(2 pi jk / m)) / sqrt(m) is the real form of Fourier's transform. It is symmetric and
    orthogonal for every m, where Hadamard's needs a power of two (Bracewell 1983, Discrete Hartley transform). With the
    signs its directions are spread over all neurons and know nothing of the data, as those of a random rotation.

    Args:
        d_in: the number of coordinates.
        seed: draws the signs, the highest bit of each of numpy's PCG64 raw draws, seeded with (seed, 2): the same on
            every platform.
    """

    needs_seed = True
    signs: torch.Tensor  # (d_in,), 1 or -1

    def __init__(self, d_in: int, seed: int):
        super().__init__()
        self.name, self.seed = BasisName("fourier"), seed
        highest = np.random.PCG64([seed, 2]).random_raw(d_in) >> np.uint64(63)
        self.register_buffer("signs", torch.from_numpy(1 - 2 * highest.astype(np.float32)), persistent=False)

    @classmethod
    def make(cls, name: BasisName, d_in: int, seed: int, sample: torch.Tensor | None) -> Fourier:
        return cls(d_in, seed)

    def into(self, x: torch.Tensor) -> torch.Tensor:
        return _hartley(x * self.signs.to(x.dtype))

    def out_of(self, u: torch.Tensor) -> torch.Tensor:
        return _hartley(u) * self.signs.to(u.dtype)

    def multiply_adds(self, d_in: int) -> int:
        """Count m * log2(m), what a fast transform of real values takes, and m for the signs."""
        return d_in * (1 + math.ceil(math.log2(d_in))) if d_in > 1 else 1


def _hartley(x: torch.Tensor) -> torch.Tensor:
    if not len(x):
        return x  # no library transforms no rows
    at_least_float = torch.promote_types(x.dtype, torch.float32)  # shorter floats have no transform on a CPU
    found = torch.fft.fft(x.to(at_least_float), norm="ortho")
    return (found.real - found.imag).to(x.dtype)
