"""The LM's linear layers multiply by oneDNN where that is faster, and nothing else about the LM changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from sweep.lm import products
from sweep.lm.products import multiply_by_onednn


class Scaled(nn.Linear):
    """A linear layer of a class of its own, as quantised ones are."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def layers() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "biased": nn.Linear(24, 40),
            "plain": nn.Linear(24, 40, bias=False),
            "conv1d": Conv1D(40, 24),
            "own": Scaled(24, 40),
        }
    )


@pytest.fixture
def multiplied(monkeypatch) -> list[torch.Size]:
    """The shapes of the weights that were multiplied by oneDNN."""
    shapes = []
    by_onednn = products.onednn_linear

    def noted(x, weight, bias):
        shapes.append(weight.shape)
        return by_onednn(x, weight, bias)

    monkeypatch.setattr(products, "onednn_linear", noted)
    return shapes


@torch.inference_mode()
def test_linear_layers_give_what_they_gave_by_onednn(multiplied):
    model, x = layers(), torch.randn(3, 5, 24)
    wanted = {name: layer(x) for name, layer in model.items()}
    multiply_by_onednn(model)
    for name, layer in model.items():
        torch.testing.assert_close(layer(x), wanted[name])
    assert multiplied == [torch.Size([40, 24])] * 3  # a layer of another class keeps its way


def test_other_dtypes_and_gradients_take_their_usual_way(multiplied):
    model, x = layers(), torch.randn(5, 24)
    multiply_by_onednn(model)
    for layer in model.values():
        (grad,) = torch.autograd.grad(layer(x).sum(), layer.weight)
        assert grad.shape == layer.weight.shape
    with torch.inference_mode():
        assert {layer(x.bfloat16()).dtype for layer in model.bfloat16().values()} == {torch.bfloat16}
    assert not multiplied


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_linear_layer_of_a_loaded_lm_multiplies_by_onednn(multiplied, loaded, ids, architecture):
    lm, _ = loaded(architecture)
    layers = [module for module in lm.model.modules() if type(module) in (nn.Linear, Conv1D)]
    lm.logits(ids, 0, lambda _: None)
    assert len(multiplied) == len(layers) > 4
