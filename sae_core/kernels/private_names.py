"""Private names of other libraries that the kernels use, each in one function, and what happens where it is gone.

A private name can move with any version of its library. `tests/sae_core/test_private_names.py` fails when the installed
version has moved one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x @ weight.T + bias, in float32 by oneDNN where torch has it, else by `torch.addmm`.

    `torch.addmm` multiplies by MKL, and torch has no public function that multiplies plain tensors by oneDNN. On an AMD
    machine encode + TopK of dense atoms takes 1.4 to 1.6 times as long by addmm (`make bench`, encode_dense against
    encode_torch_fp32). So where the private name is gone, results stay right to rounding and become slower; a warning
    says so once.

    Args:
        x: (tokens, d_in); weight: (n, d_in); bias: (n,); all on the CPU and of one dtype.
    """
    if x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        linear = _onednn_operator()
        if linear is not None:
            return linear(x, weight, bias, "none", [], "")  # no activation function after the product
    return torch.addmm(bias, x, weight.T)


@lru_cache(maxsize=1)
def _onednn_operator() -> Callable[..., Tensor] | None:
    """Return torch.ops.mkldnn._linear_pointwise; warn and return None where this torch has no such operator."""
    try:
        return torch.ops.mkldnn._linear_pointwise
    except AttributeError:
        warnings.warn(
            f"torch {torch.__version__} has no torch.ops.mkldnn._linear_pointwise, a private name that dense atoms are "
            "multiplied with; torch.addmm computes instead, which is slower",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
