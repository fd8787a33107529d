"""The LM's linear layers multiply by oneDNN where they are float32 and on a CPU.

PyTorch multiplies float32 matrices by MKL there, which takes twice as long on an AMD machine
(`python -m tests.benchmarks.lm dtype`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from sae_core.kernels.private_names import onednn_linear


def multiply_by_onednn(model: nn.Module) -> None:
    """Let the linear layers of `model` multiply by oneDNN, in float32 on a CPU and without gradients.

    What else they are given takes the way that it took before, and so do layers of other classes than `nn.Linear` and
    transformers' `Conv1D`, those derived from these two included.
    """
    from transformers.pytorch_utils import Conv1D

    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D):
            module.forward = partial(_forward, module, module.forward)


def _forward(layer: nn.Module, usual: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    if torch.is_grad_enabled() or x.device.type != "cpu" or not x.dtype == weight.dtype == torch.float32:
        return usual(x)
    return onednn_linear(x, weight if isinstance(layer, nn.Linear) else weight.T, bias)
