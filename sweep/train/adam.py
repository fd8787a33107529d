"""Adam's step on clipped gradients: torch's two calls, or one compiled call, where a small SAE spends less time."""

from __future__ import annotations

import torch

from sae_core.kernels import cpu

_PLAIN = ("weight_decay", "amsgrad", "maximize", "capturable", "differentiable")  # options that must be off
_CPU = torch.device("cpu")


def clipped_step(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Scale all gradients down to a joint norm of `max_norm` where it is larger, then do the optimizer's step.

    The compiled step keeps Adam's state where torch has it, so that either may do the next one. It is for float32
    parameters on the CPU, once torch's first step has made that state; it leaves gradients unscaled.
    """
    if not _compiled(optimizer, max_norm):
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)
        optimizer.step()


def _compiled(optimizer: torch.optim.Optimizer, max_norm: float) -> bool:
    """Do the compiled step and return True; return False where it cannot be done."""
    if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
        return False
    (group,) = optimizer.param_groups
    if any(group[option] for option in _PLAIN) or cpu.why_unavailable(_CPU) is not None:
        return False
    rows, steps = [], []
    for p in group["params"]:
        if p.grad is None:
            continue
        state = optimizer.state.get(p)
        if not state or not all(_fits(tensor) for tensor in (p, p.grad)):
            return False
        rows.append((p, p.grad, state["exp_avg"], state["exp_avg_sq"]))
        steps.append(state["step"])
    done = {int(step) for step in steps}
    if len(done) != 1:
        return False
    for step in steps:
        step += 1
    cpu.clipped_adam(rows, done.pop() + 1, group["lr"], group["betas"], group["eps"], max_norm)
    return True


def _fits(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()
