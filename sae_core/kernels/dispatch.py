"""Which module computes: chosen by name and device, at the call, never at import."""

from __future__ import annotations

from typing import Protocol, cast

import torch

from sae_core.kernels import reference, torch_gather


class Backend(Protocol):
    """The operations that every backend offers; shapes in `reference`."""

    def encode_topk(
        self, x: torch.Tensor, values: torch.Tensor, support: torch.Tensor | None, bias: torch.Tensor, k: int
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def decode(
        self,
        codes: torch.Tensor,
        indices: torch.Tensor,
        values: torch.Tensor,
        support: torch.Tensor | None,
        d_in: int,
    ) -> torch.Tensor: ...


BACKENDS = {"reference": reference, "torch_gather": torch_gather}


def get_backend(name: str, device: torch.device) -> Backend:
    """The backend called `name`; `auto` picks the fastest one for `device`.

    Raises:
        ValueError: no backend of that name.
    """
    if name == "auto":
        name = "torch_gather"
    if name not in BACKENDS:
        raise ValueError(f"backend={name} is unknown on {device.type}: choose one of auto, {', '.join(BACKENDS)}")
    return cast(Backend, BACKENDS[name])
