"""The contract of every backend, held against the reference: forward, every gradient, odd sizes, ties, dtypes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from sae_core.kernels import reference
from sae_core.kernels.dispatch import BACKENDS, why_unavailable
from sae_core.supports import expander_support

CPU = torch.device("cpu")
FAST = [name for name in BACKENDS if name != "reference" and why_unavailable(name, CPU) is None]
# Each is (tokens, d_in, n_latents, degree, k): odd sizes, d=1, d=m, k=1, k=n, one token. A degree of None makes dense
# atoms, and one of -5 atoms that are dense on the first 5 rows.
SHAPES = [
    (7, 13, 29, 3, 5),
    (33, 16, 64, 1, 4),
    (5, 11, 17, 11, 3),
    (9, 12, 20, 4, 1),
    (6, 10, 14, 2, 14),
    (1, 5, 9, 2, 2),
    (17, 9, 21, None, 4),
    (4, 7, 12, None, 12),
    (3, 70_001, 11, 2, 4),  # more rows than 16 bits count
    (8, 13, 19, -5, 4),
    (5, 6, 15, -1, 3),
]


def problem(tokens, d_in, n_latents, degree, dtype=torch.float64, seed=0):
    """Random inputs of encode_topk: x, values, support (None where atoms use the first rows), bias."""
    g = torch.Generator().manual_seed(seed)
    support = None if degree is None or degree < 0 else expander_support(d_in, n_latents, degree, seed)
    x = torch.randn(tokens, d_in, generator=g, dtype=torch.float64).to(dtype)
    values = torch.randn(n_latents, abs(degree or d_in), generator=g, dtype=torch.float64).to(dtype)
    bias = torch.randn(n_latents, generator=g, dtype=torch.float64).to(dtype)
    return x, values, support, bias


def by_index(codes, indices):
    """Codes and indices with each token's picks in the order of their index."""
    order = indices.argsort(1)
    return codes.gather(1, order), indices.gather(1, order)


def dense_codes(codes, indices, n):
    return codes.new_zeros(len(codes), n).scatter(1, indices, codes)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("tokens, d_in, n, degree, k", SHAPES)
def test_encode_and_every_gradient_are_those_of_the_reference(backend, tokens, d_in, n, degree, k):
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
def test_decode_and_every_gradient_are_those_of_the_reference(backend, tokens, d_in, n, degree, k):
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
@pytest.mark.parametrize("degree", [1, 3, -6, None])
def test_residual_unit_norm_and_every_gradient_are_those_of_the_reference(backend, degree):
    """This is the whole objective: both uses of a tied weight, its norm, and an upstream gradient of the codes too."""
    x, values, support, bias = problem(9, 16, 30, degree)
    upstream, upstream_of_codes = torch.randn(9, 16, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    values[4] = 0  # a zero atom stays zero
    results = []
    for kernels in (reference, BACKENDS[backend]):
        inputs = [t.clone().requires_grad_() for t in (x, values, bias)]
        unit = kernels.unit_norm(inputs[1])
        codes, indices = kernels.encode_topk(inputs[0], unit, support, inputs[2] - 10 * (torch.arange(30) == 4), 5)
        residual = kernels.residual(inputs[0], codes, indices, unit, support)
        ((residual * upstream).sum() + (codes * upstream_of_codes[indices]).sum()).backward()
        results.append((unit, residual, *[t.grad for t in inputs]))
    assert torch.equal(results[1][0][4], torch.zeros_like(values[4]))
    for got, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("degree", [3, -4, None])
def test_gradients_are_those_of_finite_differences(backend, degree):
    x, values, support, bias = problem(2, 6, 7, degree)
    for tensor in (x, values, bias):
        tensor.requires_grad_()
    kernels = BACKENDS[backend]

    def both(x, values, bias):
        unit = kernels.unit_norm(values)
        codes, indices = kernels.encode_topk(x, unit, support, bias, 3)
        return kernels.decode(codes, indices, unit, support, 6), kernels.residual(x, codes, indices, unit, support)

    assert torch.autograd.gradcheck(both, (x, values, bias))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("degree", [2, None])
def test_ties_pick_distinct_latents_of_equal_value(backend, degree):
    x, values, support, bias = problem(6, 8, 12, degree)
    codes, indices = BACKENDS[backend].encode_topk(x * 0, values, support, bias * 0 + 1.5, 5)
    assert torch.equal(codes, torch.full_like(codes, 1.5))
    assert all(len(set(row.tolist())) == 5 for row in indices)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("degree", [3, -4, None])
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
@pytest.mark.parametrize("degree", [7, -9, None])
def test_the_error_is_at_most_twice_that_of_plain_pytorch(backend, dtype, degree):
    """Both are held against float64, on the backend's own picks, because rounding may change which latents win."""
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


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("order", ["any", "best_first", "best_last", "few_distinct"])
def test_the_largest_of_many_latents_are_selected_in_any_order(backend, order):
    """With so many latents a fast selection guesses; in some orders a guess made from the first latents is wrong."""
    x, values, support, bias = problem(40, 24, 3000, 3)
    if order == "best_first":
        bias += torch.linspace(40, 0, 3000, dtype=torch.float64)
    if order == "best_last":
        bias += torch.linspace(0, 40, 3000, dtype=torch.float64)
    if order == "few_distinct":
        x, values, bias = x.round(), values.round(), bias.round()
    codes_ref, indices_ref = by_index(*reference.encode_topk(x, values, support, bias, 17))
    codes, indices = by_index(*BACKENDS[backend].encode_topk(x, values, support, bias, 17))
    torch.testing.assert_close(codes.sort(1).values, codes_ref.sort(1).values)
    if order == "few_distinct":  # with ties it is open which latents win, but none may be picked twice
        assert all(len(set(row.tolist())) == 17 for row in indices)
        z = x @ reference.densify(values, support, 24).T + bias
        torch.testing.assert_close(codes, z.gather(1, indices))
    else:
        assert torch.equal(indices, indices_ref)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("degree", [2, None])
def test_not_a_number_and_infinity_are_selected_as_torch_topk_selects_them(backend, degree):
    """NaN is the largest value, then inf; -inf is picked when nothing else is left."""
    x, values, support, bias = problem(5, 8, 20, degree)
    bias[3], bias[11], bias[7] = float("nan"), float("inf"), float("-inf")
    codes, indices = BACKENDS[backend].encode_topk(x, values, support, bias, 2)
    assert all(set(row.tolist()) == {3, 11} for row in indices)
    codes, indices = by_index(*BACKENDS[backend].encode_topk(x, values, support, bias, 20))
    assert torch.equal(indices, torch.arange(20).expand(5, 20))
    assert codes[:, 3].isnan().all() and (codes[:, 7] == float("-inf")).all()


@pytest.mark.parametrize("backend", [name for name in FAST if name != "gpu"])  # a GPU kernel cannot raise an error
@pytest.mark.parametrize("degree", [2, None])
def test_picks_that_are_no_latents_are_refused(backend, degree):
    x, values, support, bias = problem(5, 8, 20, degree)
    codes, indices = BACKENDS[backend].encode_topk(x, values, support, bias, 2)
    for wrong in (20, -1):
        indices[2, 1] = wrong
        with pytest.raises((IndexError, RuntimeError)):
            BACKENDS[backend].decode(codes, indices, values, support, 8)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("degree", [2, None])
def test_wrong_shapes_dtypes_and_devices_are_refused_before_any_pointer_is_taken(backend, degree):
    x, values, support, bias = problem(5, 8, 20, degree)
    kernels = BACKENDS[backend]
    codes, indices = kernels.encode_topk(x, values, support, bias, 2)
    meta = torch.device("meta")
    calls = [
        lambda: kernels.encode_topk(x, values, support, bias[:-1], 2),
        lambda: kernels.encode_topk(x, values, support, bias.float(), 2),
        lambda: kernels.encode_topk(x.long(), values, support, bias, 2),
        lambda: kernels.encode_topk(x[0], values, support, bias, 2),
        lambda: kernels.encode_topk(x.to(meta), values, support, bias, 2),
        lambda: kernels.encode_topk(x, values, support, bias, 0),
        lambda: kernels.encode_topk(x, values, support, bias, 21),
        lambda: kernels.decode(codes, indices[:, :1], values, support, 8),
        lambda: kernels.decode(codes, indices.T, values, support, 8),
        lambda: kernels.decode(codes, indices.int(), values, support, 8),
        lambda: kernels.decode(codes.float(), indices, values, support, 8),
        lambda: kernels.decode(codes, indices, values[0], support, 8),
        lambda: kernels.residual(x[:4], codes, indices, values, support),
        lambda: kernels.residual(x.float(), codes, indices, values, support),
        lambda: kernels.unit_norm(values[0]),
    ]
    if support is None:
        calls += [lambda: kernels.decode(codes, indices, values, None, 7)]
        calls += [lambda: kernels.encode_topk(x[:, :7], values, None, bias, 2)]
    else:
        calls += [lambda: kernels.encode_topk(x, values, support[:-1], bias, 2)]
        calls += [lambda: kernels.encode_topk(x, values, support.int(), bias, 2)]
    for call in calls:
        with pytest.raises(ValueError, match="must|are on"):
            call()


@pytest.mark.parametrize("backend", FAST)
def test_inputs_need_not_be_contiguous(backend):
    x, values, support, bias = problem(6, 9, 16, 3)
    codes, indices = BACKENDS[backend].encode_topk(x, values, support, bias, 4)
    strided = [t.T.contiguous().T for t in (x, values, support)]
    again = BACKENDS[backend].encode_topk(*strided, bias.repeat_interleave(2)[::2], 4)
    assert torch.equal(by_index(codes, indices)[1], by_index(*again)[1])
    out = BACKENDS[backend].decode(codes, indices, values, support, 9)
    other = BACKENDS[backend].decode(codes.T.contiguous().T, indices.T.contiguous().T, strided[1], strided[2], 9)
    torch.testing.assert_close(other, out)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sae_core.kernels import gpu_greedy_triton, gpu_least_squares_triton, gpu_triton

KERNELS = {**vars(gpu_triton), **vars(gpu_greedy_triton), **vars(gpu_least_squares_triton)}
INTS = {"support", "indices", "picks", "first_of_row", "atoms_of_row"}
SIZES = {"tokens", "d_in", "n", "count", "degree", "k"}
BY_ROW = ("first_of_row", "atoms_of_row", "values_of_row")
greedy = {"MAGNITUDE": True, "BLOCK": 64, "DEGREE": 8, "ENTRIES": 16}
for name, fixed in (
    ("group_maxima", {}), ("correlations", {}), ("candidates", {}), ("atom_products", {}),
    ("largest", {}), ("largest", {"GROUP": 0, "groups": None, "codes": None}),
    ("add_picks", {"TO_ATOMS": False}), ("add_picks", {"TO_ATOMS": True}), ("gram_of_picks", {}),
    ("substitute", {}), ("eliminate", {}), ("scaled", {}), ("filled_up", {}),
    ("matching_pursuit", {**greedy, "SPARSE": True, "BY_ROWS": False, "gram": None}),
    ("matching_pursuit", {**greedy, "SPARSE": True, "BY_ROWS": True, **dict.fromkeys(BY_ROW)}),
    ("matching_pursuit", {**greedy, "SPARSE": False, "BY_ROWS": True, "support": None, **dict.fromkeys(BY_ROW)}),
):
    for number in ("fp32", "fp64"):
        kernel = KERNELS[name]
        constants = {a: fixed.get(a, 16) for a in kernel.arg_names if a.isupper() or a in fixed}
        signature = {a: "constexpr" if a in constants else "i32" if a in SIZES else "fp32" if a == "tolerance"
                     else "*i32" if a in ("groups", "failed") else "*i64" if a in INTS else "*" + number
                     for a in kernel.arg_names}
        compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
        print(name, len(compiled.asm["ptx"]))
"""


@pytest.mark.skipif("gpu" not in FAST, reason=f"gpu backend: {why_unavailable('gpu', CPU)}")
def test_gpu_kernels_compile_for_a_gpu():
    """Interpreting proves the arithmetic, but not that the compiler takes the kernels; here it makes code for sm_90."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 32


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("degree", [4, None])
@pytest.mark.parametrize("codes_by", ["tied", "own", "pursuit"])
@pytest.mark.parametrize("frozen, always_on", [(False, 0), (True, 0), (False, 3)])
def test_the_sums_of_a_step_are_those_of_autograd(backend, degree, codes_by, frozen, always_on):
    x, values, support, bias = problem(70, 12, 50, degree)
    own = torch.randn(50, 12, generator=torch.Generator().manual_seed(1), dtype=x.dtype).requires_grad_()
    shift, bias = torch.zeros(12, dtype=x.dtype, requires_grad=True), bias.requires_grad_()
    atoms = reference.unit_norm(values.requires_grad_(not frozen))
    rows = (own, None) if codes_by == "own" else (atoms, support)
    codes, indices = reference.encode_topk(x - shift, *rows, bias, 5)
    if codes_by == "pursuit":
        codes = codes.detach()
    left = reference.residual(x - shift, codes, indices, atoms, support)
    left = torch.cat((torch.zeros_like(left[:, :always_on]), left[:, always_on:]), 1)
    left.square().sum(1).mean().backward()

    found = BACKENDS[backend]
    unit, inverse = found.kernels.unit_norm(values.detach())
    encoder = {"tied": unit, "own": own.detach(), "pursuit": None}[codes_by]
    sums = found.losses.loss_sums(x, codes.detach(), indices, unit, inverse, support, encoder, always_on, frozen)
    torch.testing.assert_close(sums.left, left.detach())
    torch.testing.assert_close(sums.errors, left.detach().square().sum(1))
    torch.testing.assert_close(sums.into_bias, -shift.grad)
    for ours, theirs in ((sums.into_encoder, bias), (sums.into_rows, own), (sums.into_atoms, values)):
        assert (ours is None) == (theirs.grad is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs.grad)
