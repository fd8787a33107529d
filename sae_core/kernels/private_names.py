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


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ weight.T + bias, in float32 by oneDNN where torch has it, else by `torch.nn.functional.linear`.

    torch's own function multiplies by MKL, and it has no public one that multiplies plain tensors by oneDNN. On an AMD
    machine encode + TopK of dense atoms takes 1.4 to 1.6 times as long by MKL (`make bench`, encode_dense against
    encode_torch_fp32), and an LM's pass twice as long. So where the private name is gone, results stay right to
    rounding and become slower; a warning says so once.

    Args:
        x: (..., d_in); weight: (n, d_in); bias: (n,), or None for none; all on the CPU and of one dtype.
    """
    if x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        linear = _onednn_operator()
        if linear is not None:
            return linear(x, weight, bias, "none", [], "")  # no activation function after the product
    return torch.nn.functional.linear(x, weight, bias)


@lru_cache(maxsize=1)
def _onednn_operator() -> Callable[..., Tensor] | None:
    """Return torch.ops.mkldnn._linear_pointwise; warn and return None where this torch has no such operator."""
    try:
        return torch.ops.mkldnn._linear_pointwise
    except AttributeError:
        warnings.warn(
            f"torch {torch.__version__} has no torch.ops.mkldnn._linear_pointwise, a private name that dense atoms "
            "and LMs are multiplied with; torch.nn.functional.linear computes instead, which may be slower",
            RuntimeWarning,
            stacklevel=3,
        )
        return None
