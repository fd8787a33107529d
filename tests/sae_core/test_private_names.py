"""The private names of other libraries that the kernels use are where they were, and the project works without them."""

from __future__ import annotations

import warnings

import pytest
import torch

from sae_core.kernels import private_names


def operands(dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=g).to(dtype) for size in ((33, 48), (96, 48), (96,))]


@pytest.fixture
def without_the_operator(monkeypatch):
    """A torch whose oneDNN operators have lost the private one."""
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    private_names._onednn_operator.cache_clear()
    yield
    private_names._onednn_operator.cache_clear()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
def test_torch_still_has_its_private_onednn_product():
    moved = (
        f"torch {torch.__version__} has moved or changed torch.ops.mkldnn._linear_pointwise: dense atoms are now "
        "multiplied by torch.addmm, more slowly. Find the new name for sae_core/kernels/private_names.py"
    )
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    assert operator is not None, moved
    x, weight, bias = operands()
    try:
        product = operator(x, weight, bias, "none", [], "")
    except (RuntimeError, TypeError) as error:
        pytest.fail(f"{moved} ({error})")
    torch.testing.assert_close(product, x @ weight.T + bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_product_is_right_in_every_dtype_that_kernels_use(dtype):
    x, weight, bias = operands(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        product = private_names.onednn_linear(x, weight, bias)
    assert product.dtype == dtype
    torch.testing.assert_close(product, torch.addmm(bias, x, weight.T))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
def test_without_the_private_name_addmm_computes_and_one_warning_names_it_and_the_version(without_the_operator):
    x, weight, bias = operands()
    with pytest.warns(RuntimeWarning, match=rf"torch {torch.__version__.split('+')[0]}.* no .*_linear_pointwise"):
        product = private_names.onednn_linear(x, weight, bias)
    assert torch.equal(product, torch.nn.functional.linear(x, weight, bias))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        private_names.onednn_linear(x, weight, bias)
