"""Every backend against the reference: forward, every input's gradient, edges, ties, poisoned memory, dtypes."""

from __future__ import annotations

import pytest
import torch

from sae_core.kernels import reference
from sae_core.kernels.dispatch import BACKENDS
from sae_core.supports import expander_support

FAST = [name for name in BACKENDS if name != "reference"]
# (tokens, d_in, n_latents, degree or None for dense atoms, k): odd sizes, d=1, d=m, k=1, k=n, one token.
SHAPES = [
    (7, 13, 29, 3, 5),
    (33, 16, 64, 1, 4),
    (5, 11, 17, 11, 3),
    (9, 12, 20, 4, 1),
    (6, 10, 14, 2, 14),
    (1, 5, 9, 2, 2),
    (17, 9, 21, None, 4),
    (4, 7, 12, None, 12),
]


def problem(tokens, d_in, n_latents, degree, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    support = None if degree is None else expander_support(d_in, n_latents, degree, seed)
    x = torch.randn(tokens, d_in, generator=g, dtype=torch.float64).to(dtype)
    values = torch.randn(n_latents, degree or d_in, generator=g, dtype=torch.float64).to(dtype)
    bias = torch.randn(n_latents, generator=g, dtype=torch.float64).to(dtype)
    return x, values, support, bias


def by_index(codes, indices):
    order = indices.argsort(1)
    return codes.gather(1, order), indices.gather(1, order)


def dense_codes(codes, indices, n):
    return codes.new_zeros(len(codes), n).scatter(1, indices, codes)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("tokens, d_in, n, degree, k", SHAPES)
def test_encode_and_every_gradient(backend, tokens, d_in, n, degree, k):
    x, values, support, bias = problem(tokens, d_in, n, degree)
    upstream = torch.randn(tokens, n, dtype=torch.float64)
    results = []
    for kernels in (reference, BACKENDS[backend]):
        inputs = [t.clone().requires_grad_() for t in (x, values, bias)]
        codes, indices = kernels.encode_topk(inputs[0], inputs[1], support, inputs[2], k)
        assert codes.shape == indices.shape == (tokens, k)
        (dense_codes(codes, indices, n) * upstream).sum().backward()
        results.append((by_index(codes, indices), [t.grad for t in inputs]))
    (codes_ref, indices_ref), grads_ref = results[0]
    (codes, indices), grads = results[1]
    assert torch.equal(indices, indices_ref)
    torch.testing.assert_close(codes, codes_ref)
    for grad, grad_ref in zip(grads, grads_ref, strict=True):
        torch.testing.assert_close(grad, grad_ref)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("tokens, d_in, n, degree, k", SHAPES)
def test_decode_and_every_gradient(backend, tokens, d_in, n, degree, k):
    x, values, support, bias = problem(tokens, d_in, n, degree)
    codes, indices = reference.encode_topk(x, values, support, bias, k)
    upstream = torch.randn(tokens, d_in, dtype=torch.float64)
    results = []
    for kernels in (reference, BACKENDS[backend]):
        inputs = [t.detach().clone().requires_grad_() for t in (codes, values)]
        out = kernels.decode(inputs[0], indices, inputs[1], support, d_in)
        out.backward(upstream)
        results.append((out, *[t.grad for t in inputs]))
    for got, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("degree", [3, None])
def test_gradcheck(backend, degree):
    x, values, support, bias = (t.requires_grad_() if t is not None and t.is_floating_point() else t
                                for t in problem(4, 7, 11, degree))  # fmt: skip
    kernels = BACKENDS[backend]

    def both(x, values, bias):
        codes, indices = kernels.encode_topk(x, values, support, bias, 3)
        return kernels.decode(codes, indices, values, support, 7)

    assert torch.autograd.gradcheck(both, (x, values, bias))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("degree", [2, None])
def test_ties_pick_distinct_latents_of_equal_value(backend, degree):
    x, values, support, bias = problem(6, 8, 12, degree)
    codes, indices = BACKENDS[backend].encode_topk(x * 0, values, support, bias * 0 + 1.5, 5)
    assert torch.equal(codes, torch.full_like(codes, 1.5))
    assert all(len(set(row.tolist())) == 5 for row in indices)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("degree", [3, None])
def test_results_do_not_read_uninitialised_memory(backend, degree, monkeypatch):
    empty, empty_like = torch.empty, torch.empty_like

    def poisoned(make):
        def fill(*args, **kwargs):
            out = make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return fill

    monkeypatch.setattr(torch, "empty", poisoned(empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(empty_like))
    x, values, support, bias = problem(5, 9, 15, degree)
    values.requires_grad_()
    codes, indices = BACKENDS[backend].encode_topk(x, values, support, bias, 4)
    out = BACKENDS[backend].decode(codes, indices, values, support, 9)
    out.sum().backward()
    assert torch.isfinite(out).all() and torch.isfinite(values.grad).all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("degree", [7, None])
def test_error_at_most_twice_plain_pytorch(backend, dtype, degree):
    """Against the float64 truth, on the picks of the backend itself: rounding may change which latents win."""
    x, values, support, bias = problem(64, 48, 96, degree)
    low = [t.to(dtype) for t in (x, values, bias)]
    exact_z = low[0].double() @ reference.densify(low[1].double(), support, 48).T + low[2].double()
    plain_z = low[0] @ reference.densify(low[1], support, 48).T + low[2]
    codes, indices = BACKENDS[backend].encode_topk(low[0], low[1], support, low[2], 8)
    error = (codes.double() - exact_z.gather(1, indices)).norm()
    plain = (plain_z.double() - exact_z).gather(1, indices).norm()
    assert error <= 2 * plain
    exact = reference.decode(codes.double(), indices, low[1].double(), support, 48)
    plain_out = reference.decode(codes, indices, low[1], support, 48)
    out = BACKENDS[backend].decode(codes, indices, low[1], support, 48)
    assert out.dtype == dtype
    assert (out.double() - exact).norm() <= 2 * (plain_out.double() - exact).norm()


def test_unknown_backend_is_named():
    from sae_core.kernels.dispatch import get_backend

    with pytest.raises(ValueError, match="backend=fast is unknown"):
        get_backend("fast", torch.device("cpu"))
