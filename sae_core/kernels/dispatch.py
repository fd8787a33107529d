"""The choice of the backend that computes: by name and device, when it is called for, never at import."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from sae_core.kernels import cpu, gpu, reference, torch_gather
from sae_core.kernels.autograd import Differentiable
from sae_core.kernels.composed import Composed
from sae_core.kernels.gpu_greedy import OnGpu


class Backend(Protocol):
    """The operations that every backend offers. `reference` defines them; the first four are differentiable."""

    def encode_topk(
        self, x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int
    ) -> tuple[Tensor, Tensor]: ...

    def decode(self, codes: Tensor, indices: Tensor, values: Tensor, support: Tensor | None, d_in: int) -> Tensor: ...

    def residual(self, x: Tensor, codes: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor: ...

    def unit_norm(self, values: Tensor) -> Tensor: ...

    def atom_products(self, y: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor: ...

    def gomp(
        self, x: Tensor, values: Tensor, support: Tensor | None, k: int, block: int, signed: bool
    ) -> tuple[Tensor, Tensor]: ...

    def matching_pursuit(
        self, x: Tensor, values: Tensor, support: Tensor | None, k: int, signed: bool, refit: bool
    ) -> tuple[Tensor, Tensor]: ...

    def refit(self, x: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor: ...


class BackendWarning(UserWarning):
    """The warning that a slower backend is used than this device could have."""


BACKENDS: dict[str, Backend] = {
    "reference": reference,
    "torch_gather": Differentiable(torch_gather, Composed(torch_gather), Composed(torch_gather)),
    "cpu": Differentiable(cpu, cpu, cpu),
    "gpu": Differentiable(gpu, OnGpu(gpu), Composed(gpu)),
}
_FASTEST = {"cpu": "cpu", "cuda": "gpu"}  # by type of device; on any other, torch_gather


def why_unavailable(name: str, device: torch.device) -> str | None:
    """Return the reason why backend `name` cannot compute on `device`; None where it can."""
    if name == "cpu":
        return cpu.why_unavailable(device)
    return gpu.why_unavailable(device) if name == "gpu" else None


def get_backend(name: str, device: torch.device) -> Backend:
    """Return the backend called `name`; `auto` is the fastest for `device`, with one warning where that is missing.

    Raises:
        ValueError: there is no backend of that name, or it cannot be used here.
    """
    return BACKENDS[backend_name(name, device)]


def backend_name(name: str, device: torch.device) -> str:
    """Return the key in BACKENDS of the backend that `get_backend` returns; raises the same errors."""
    if name == "auto":
        return _auto(device.type)
    if name not in BACKENDS:
        raise ValueError(f"backend={name} is unknown: choose one of auto, {', '.join(BACKENDS)}")
    reason = why_unavailable(name, device)
    if reason:
        raise ValueError(f"backend={name} cannot be used: {reason}")
    return name


@lru_cache
def _auto(device_type: str) -> str:
    name = _FASTEST.get(device_type, "torch_gather")
    reason = why_unavailable(name, torch.device(device_type))
    if reason is None:
        return name
    warnings.warn(
        f"the {name} backend cannot be used ({reason}); torch_gather computes instead, which is slower",
        BackendWarning,
        stacklevel=4,
    )
    return "torch_gather"
