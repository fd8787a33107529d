"""The contract of every backend's pursuits, held against the float64 references: picks, residual, odd cases, dtypes."""

from __future__ import annotations

import pytest
import torch

from sae_core.kernels import gpu, gpu_greedy, reference
from sae_core.kernels.dispatch import BACKENDS, why_unavailable
from sae_core.pursuit.solvers import solver
from sae_core.supports import expander_support

CPU = torch.device("cpu")
HERE = [name for name in BACKENDS if name != "reference" and why_unavailable(name, CPU) is None]
# A test of the GPU's pursuits takes long, as Triton's interpreter runs their kernels here: they get a few of their own.
FAST = [name for name in HERE if name != "gpu"]
PURSUITS = {
    "omp": lambda b, x, v, s, k: b.gomp(x, v, s, k, 1, True),
    "omp_magnitude": lambda b, x, v, s, k: b.gomp(x, v, s, k, 1, False),
    "gomp3": lambda b, x, v, s, k: b.gomp(x, v, s, k, 3, True),
    "gomp3_magnitude": lambda b, x, v, s, k: b.gomp(x, v, s, k, 3, False),
    "mp": lambda b, x, v, s, k: b.matching_pursuit(x, v, s, k, True, False),
    "mp_refit": lambda b, x, v, s, k: b.matching_pursuit(x, v, s, k, True, True),
    "mp_magnitude": lambda b, x, v, s, k: b.matching_pursuit(x, v, s, k, False, False),
    "mp_cg2": solver("mp_cg2"),
    "mp_floor50": solver("mp_floor50"),
    "nested_floor20": solver("nested_floor20"),
}
INEXACT = ("mp", "mp_magnitude", "mp_cg2")  # their codes are not those of least squares
each_backend = pytest.mark.parametrize("backend", FAST)
each_pursuit = pytest.mark.parametrize("name", PURSUITS)
# Each is (tokens, d_in, n_latents, degree, k): odd sizes, d=m, k=1, k=n, k beyond the rank, one token, and what makes
# matching pursuit keep its correlations up to date in each of its ways: (40, 150, ...) changes them, (200, 60, ...)
# holds rows of the Gram matrix, the other small ones make correlations anew. A degree of None makes dense atoms, and
# one of -6 atoms that are dense on the first 6 rows.
SHAPES = [
    (7, 26, 29, 3, 5),
    (5, 11, 17, 11, 3),
    (9, 12, 20, 4, 1),
    (6, 24, 14, 2, 14),
    (1, 25, 49, 1, 2),
    (4, 12, 40, 3, 17),
    (17, 19, 21, None, 4),
    (4, 7, 12, None, 12),
    (40, 150, 300, 5, 12),
    (200, 60, 200, 6, 12),
    (3, 70_001, 40, 2, 4),  # more rows than 16 bits count
    (9, 13, 22, -6, 4),
]


def problem(tokens, d_in, n_latents, degree, dtype=torch.float64, seed=0):
    """Random targets, the values of unit atoms, and their support (None where atoms use the first rows)."""
    g = torch.Generator().manual_seed(seed)
    support = None if degree is None or degree < 0 else expander_support(d_in, n_latents, degree, seed)
    x = torch.randn(tokens, d_in, generator=g, dtype=torch.float64)
    values = torch.randn(n_latents, abs(degree or d_in), generator=g, dtype=torch.float64)
    return x.to(dtype), torch.nn.functional.normalize(values, dim=1).to(dtype), support


def residual_norms(x, found, values, support):
    codes, indices = found
    return reference.residual(x.double(), codes.double(), indices, values.double(), support).norm(dim=1)


def picks(found):
    return [set(row.tolist()) for row in found[1]]


@each_backend
@each_pursuit
@pytest.mark.parametrize("tokens, d_in, n, degree, k", SHAPES)
def test_picks_and_residual_are_those_of_the_reference(backend, name, tokens, d_in, n, degree, k):
    x, values, support = problem(tokens, d_in, n, degree)
    if degree == 1:  # atoms on one row are +-e_r: keep one for each row, because which of equal atoms wins is open
        values, support = values[:d_in].abs(), torch.arange(d_in)[:, None]
    wanted = PURSUITS[name](reference, x, values, support, k)
    found = PURSUITS[name](BACKENDS[backend], x, values, support, k)
    assert found[0].shape == found[1].shape == (tokens, k)
    assert all(len(row) == k for row in picks(found))
    # A block beyond the rank holds nearly dependent atoms; then rounding decides when nothing is left to pick.
    if k <= d_in or "gomp" not in name:
        assert picks(found) == picks(wanted)
    norms = x.norm(dim=1)
    torch.testing.assert_close(
        residual_norms(x, found, values, support) / norms, residual_norms(x, wanted, values, support) / norms
    )


interpreted = pytest.mark.skipif("gpu" not in HERE, reason="no Triton")


@interpreted
@pytest.mark.parametrize("name", ["omp", "gomp3_magnitude", "mp_refit", "mp_cg2", "nested_floor20"])
@pytest.mark.parametrize("degree", [3, 10, None])
def test_pursuits_by_gpu_kernels_are_those_of_the_reference(name, degree):
    x, values, support = problem(2, 12, 20, degree)
    wanted = PURSUITS[name](reference, x, values, support, 4)
    found = PURSUITS[name](BACKENDS["gpu"], x, values, support, 4)
    assert picks(found) == picks(wanted)
    torch.testing.assert_close(*(residual_norms(x, f, values, support) for f in (found, wanted)))


@pytest.fixture
def small_blocks(monkeypatch):
    """Let a GPU's program do little at a time, so that small problems need all its loops, and several calls."""
    monkeypatch.setattr(gpu, "_HELD", 3 * 8 * 40)
    sizes = {"_BLOCK": 16, "_ROWS": 2, "_ENTRIES": 4, "_AT_ONCE": 7, "_LATENTS": 8, "_TOKENS": 2}
    for name, size in sizes.items():
        monkeypatch.setattr(gpu_greedy, name, size)


@interpreted
@pytest.mark.parametrize("tokens, d_in, n, degree, k", [(4, 26, 40, 3, 5), (3, 11, 17, 11, 3), (2, 12, 40, 3, 17)])
@pytest.mark.parametrize("signed, refit", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("way", ["changes", "rows"])
def test_each_way_of_matching_pursuit_on_a_gpu_is_the_reference(
    small_blocks, way, tokens, d_in, n, degree, k, signed, refit
):
    x, values, support = problem(tokens, d_in, n, degree)
    x[0], x[1, 2] = 0, float("nan")
    wanted = reference.matching_pursuit(x, values, support, k, signed, refit)
    found = gpu_greedy.pursue(way, x, values, support, k, signed, refit)
    assert picks(found) == picks(wanted)
    assert not found[0][0].any() and found[0][1].isnan().all()
    norms = [residual_norms(x, each, values, support)[2:] for each in (found, wanted)]
    torch.testing.assert_close(*norms)


@interpreted
@pytest.mark.parametrize("way", ["changes", "rows"])
def test_matching_pursuit_on_a_gpu_handles_duplicate_atoms_and_picks_beyond_the_rank(small_blocks, way):
    x, values, _ = problem(3, 20, 20, 8)
    values, support = values.repeat(2, 1), torch.arange(8).repeat(40, 1)
    wanted = reference.matching_pursuit(x, values, support, 13, True, True)
    found = gpu_greedy.pursue(way, x, values, support, 13, True, True)
    assert all(len(row) == 13 for row in picks(found))
    assert pairs_with_codes(found) == pairs_with_codes(wanted)
    torch.testing.assert_close(*(residual_norms(x, each, values, support) for each in (found, wanted)))


@interpreted
@pytest.mark.parametrize("dtype, exponents", [(torch.float32, (-110, 3, 110)), (torch.float64, (-900, 900))])
def test_targets_of_any_scale_give_the_same_picks_and_scaled_codes_on_a_gpu(dtype, exponents):
    x, values, support = problem(2, 20, 30, 3, dtype)
    codes, indices = PURSUITS["mp_refit"](BACKENDS["gpu"], x, values, support, 4)
    for exponent in exponents:
        scaled = PURSUITS["mp_refit"](BACKENDS["gpu"], x * 2.0**exponent, values, support, 4)
        assert torch.equal(scaled[1], indices)
        assert torch.equal(scaled[0], codes * 2.0**exponent)


@interpreted
@pytest.mark.parametrize("degree", [3, None])
def test_what_is_too_large_for_a_gpus_kernels_is_composed(monkeypatch, degree):
    monkeypatch.setattr(gpu_greedy, "_GRAM", 0)
    monkeypatch.setattr(gpu_greedy, "MOST_PICKS", 3)
    x, values, support = problem(2, 12, 20, degree)
    assert not BACKENDS["gpu"].pursuits.in_kernels(values, support, 12, 4)
    wanted = PURSUITS["mp_refit"](reference, x, values, support, 4)
    found = PURSUITS["mp_refit"](BACKENDS["gpu"], x, values, support, 4)
    assert picks(found) == picks(wanted)
    torch.testing.assert_close(found[0].sort().values, wanted[0].sort().values)


@interpreted
@pytest.mark.parametrize("kind", ["random", "twice", "beyond_rank"])
@pytest.mark.parametrize("degree", [2, 8, None])
def test_refit_by_gpu_kernels_is_least_squares_on_any_picks(kind, degree):
    x, values, support = problem(3, 13, 40, degree)
    indices = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    indices = indices[:, : 20 if kind == "beyond_rank" else 6].contiguous()
    if kind == "twice":
        indices[:, 4] = indices[:, 1]
    codes = BACKENDS["gpu"].refit(x, indices, values, support)
    wanted = BACKENDS["torch_gather"].refit(x, indices, values, support)
    norms = [residual_norms(x, (each, indices), values, support) for each in (codes, wanted)]
    torch.testing.assert_close(*norms)
    if kind != "beyond_rank":  # beyond the rank codes may be huge and nearly cancel
        torch.testing.assert_close(codes, wanted)


@each_backend
@pytest.mark.parametrize("degree", [3, -8, None])
@pytest.mark.parametrize("kind", ["random", "twice", "beyond_rank"])
def test_refit_is_least_squares_on_any_picks(backend, degree, kind):
    x, values, support = problem(35, 13, 40, degree)
    k = 20 if kind == "beyond_rank" else 6
    indices = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(i))[:k] for i in range(35)])
    if kind == "twice":
        indices[:, 4] = indices[:, 1]
    codes = BACKENDS[backend].refit(x, indices, values, support)
    atoms = reference.densify(values, support, 13)
    for y, picked, code in zip(x, indices, codes, strict=True):
        best = torch.linalg.lstsq(atoms[picked].T, y[:, None], driver="gelsd").solution[:, 0]
        torch.testing.assert_close((y - code @ atoms[picked]).norm(), (y - best @ atoms[picked]).norm())
    if kind == "twice":
        assert not codes[:, 4].any()
    if kind != "beyond_rank":  # beyond the rank codes may be huge and nearly cancel
        torch.testing.assert_close(codes, reference.refit(x, indices, values, support))


@each_backend
@each_pursuit
@pytest.mark.parametrize("degree", [3, None])
def test_targets_of_any_scale_give_the_same_picks_and_scaled_codes(backend, name, degree):
    """A power of two scales the codes bit for bit and changes nothing else; squares neither over- nor underflow."""
    x, values, support = problem(5, 75, 90, degree, torch.float32)
    codes, indices = PURSUITS[name](BACKENDS[backend], x, values, support, 6)
    for exponent in (-110, -20, 3, 110):
        scaled = PURSUITS[name](BACKENDS[backend], x * 2.0**exponent, values, support, 6)
        assert torch.equal(scaled[1], indices)
        assert torch.equal(scaled[0], codes * 2.0**exponent)


@each_backend
@each_pursuit
@pytest.mark.parametrize("degree", [3, None])
def test_zero_targets_have_zero_codes_and_targets_that_are_not_finite_have_nan_codes(backend, name, degree):
    x, values, support = problem(6, 75, 90, degree)
    alone = PURSUITS[name](BACKENDS[backend], x[5:], values, support, 6)
    x[0], x[1, 7], x[2, 3], x[3, 0] = 0, float("nan"), float("inf"), float("-inf")
    codes, indices = PURSUITS[name](BACKENDS[backend], x, values, support, 6)
    assert torch.equal(indices[:4], torch.arange(6).expand(4, 6))
    assert not codes[0].any() and codes[1:4].isnan().all()
    assert torch.equal(indices[5:], alone[1])
    torch.testing.assert_close(codes[5:], alone[0])


@each_backend
@each_pursuit
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("degree", [3, None])
def test_a_dictionary_that_is_not_finite_does_not_look_healthy(backend, name, bad, degree):
    x, values, support = problem(4, 75, 90, degree)
    values[7, 1] = bad
    for kernels in (BACKENDS[backend], reference):
        codes, indices = PURSUITS[name](kernels, x, values, support, 6)
        assert codes.isnan().all() and all(len(set(row.tolist())) == 6 for row in indices)
    assert BACKENDS[backend].refit(x, indices, values, support).isnan().all()


@each_backend
@pytest.mark.parametrize("block", [2, 3, 5])
def test_atoms_that_do_not_correlate_at_all_are_picked_once(backend, block):
    support = torch.tensor([[1], [1], [2], [1], [2], [0]])
    x = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    _, indices = BACKENDS[backend].gomp(x, torch.ones(6, 1, dtype=torch.float64), support, 5, block, False)
    assert len(set(indices[0].tolist())) == 5


def pairs_with_codes(found):
    """For each token the pairs of equal atoms, j and j + 20, of which one has a code other than 0."""
    codes, indices = found
    return [{int(j) % 20 for j in row[code != 0]} for row, code in zip(indices, codes, strict=True)]


@each_backend
@each_pursuit
@pytest.mark.parametrize("sparse", [True, False])
def test_duplicate_atoms_and_more_picks_than_the_rank_are_handled_as_by_the_reference(backend, name, sparse):
    """Each atom is there twice and they span 8 dimensions: nothing is NaN, picks stay distinct, the fit is as good."""
    x, values, support = problem(9, 200, 20, 8 if sparse else None)
    if sparse:
        support = torch.arange(8).repeat(20, 1)
    else:
        values = torch.nn.functional.normalize(values[:, :8] @ values[:8], dim=1)
    values, support = values.repeat(2, 1), None if support is None else support.repeat(2, 1)
    for k in (8, 13):
        wanted = PURSUITS[name](reference, x, values, support, k)
        found = PURSUITS[name](BACKENDS[backend], x, values, support, k)
        assert torch.isfinite(found[0]).all() and all(len(row) == k for row in picks(found))
        if "gomp" not in name:  # a block takes both atoms of a pair at once, and which comes first is open
            assert pairs_with_codes(found) == pairs_with_codes(wanted)
        torch.testing.assert_close(
            residual_norms(x, found, values, support), residual_norms(x, wanted, values, support)
        )


@each_backend
@each_pursuit
@pytest.mark.parametrize("degree", [2, 9, None])
def test_picks_among_many_atoms_are_those_of_the_reference(backend, name, degree):
    """There are so many atoms that a fast selection guesses, and more tokens than one tile holds."""
    x, values, support = problem(70, 64, 3000, degree)
    wanted = PURSUITS[name](reference, x[:6], values, support, 10)
    found = PURSUITS[name](BACKENDS[backend], x, values, support, 10)
    assert picks(found)[:6] == picks(wanted)
    torch.testing.assert_close(
        residual_norms(x[:6], [part[:6] for part in found], values, support),
        residual_norms(x[:6], wanted, values, support),
    )


@each_backend
@pytest.mark.parametrize("name", [name for name in PURSUITS if name not in INEXACT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("degree", [3, 9, None])
def test_the_error_is_at_most_twice_that_of_plain_pytorch(backend, name, dtype, degree):
    """Plain PyTorch is torch.linalg.lstsq in float32 on the picks that the backend made, rounded to dtype."""
    x, values, support = problem(48, 96, 200, degree, dtype)
    codes, indices = PURSUITS[name](BACKENDS[backend], x, values, support, 16)
    assert codes.dtype == dtype
    atoms = reference.densify(values.float(), support, 96)[indices].mT * (codes != 0)[:, None]  # (tokens, d_in, k)
    exact = torch.linalg.lstsq(atoms.double(), x.double()[..., None], driver="gelsd").solution[..., 0]
    plain = torch.linalg.lstsq(atoms, x.float()[..., None], driver="gelsd").solution[..., 0].to(dtype)
    assert (codes.double() - exact).norm() <= 2 * (plain.double() - exact).norm()


@each_backend
@each_pursuit
def test_results_do_not_read_uninitialised_memory(backend, name, monkeypatch):
    empty = torch.empty

    def poisoned(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(float("nan")) if out.is_floating_point() else out.fill_(-7)

    x, values, support = problem(5, 75, 90, 3)
    wanted = PURSUITS[name](BACKENDS[backend], x, values, support, 6)
    monkeypatch.setattr(torch, "empty", poisoned)
    found = PURSUITS[name](BACKENDS[backend], x, values, support, 6)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


@each_backend
@pytest.mark.parametrize("degree", [3, None])
def test_wrong_input_is_refused_before_any_pointer_is_taken(backend, degree):
    x, values, support = problem(5, 8, 20, degree)
    kernels = BACKENDS[backend]
    indices = torch.zeros(5, 2, dtype=torch.int64)
    calls = [
        lambda: kernels.gomp(x, values, support, 0, 1, True),
        lambda: kernels.gomp(x, values, support, 21, 1, True),
        lambda: kernels.gomp(x, values, support, 2, 0, True),
        lambda: kernels.gomp(x.float(), values, support, 2, 1, True),
        lambda: kernels.gomp(x[0], values, support, 2, 1, True),
        lambda: kernels.matching_pursuit(x, values[0], support, 2, True, True),
        lambda: kernels.matching_pursuit(x, values, support, 21, True, True),
        lambda: kernels.refit(x[:4], indices, values, support),
        lambda: kernels.refit(x, indices.int(), values, support),
        lambda: kernels.refit(x, indices[0], values, support),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must"):
            call()
    for wrong in (20, -1):
        with pytest.raises((IndexError, RuntimeError)):
            kernels.refit(x, indices + wrong, values, support)


@each_backend
def test_no_tokens_give_no_codes(backend):
    _, values, support = problem(1, 75, 90, 3)
    for pursue in PURSUITS.values():
        codes, indices = pursue(BACKENDS[backend], torch.zeros(0, 75, dtype=torch.float64), values, support, 4)
        assert codes.shape == indices.shape == (0, 4)


@each_backend
@each_pursuit
@pytest.mark.parametrize("degree", [4, None])
def test_in_inference_mode_the_codes_are_the_same(backend, name, degree):
    """Probes and evaluations encode in inference mode, whose tensors autograd refuses to keep."""
    wanted = PURSUITS[name](BACKENDS[backend], *problem(6, 20, 40, degree), 5)
    with torch.inference_mode():
        found = PURSUITS[name](BACKENDS[backend], *problem(6, 20, 40, degree), 5)
    for one, other in zip(wanted, found, strict=True):
        assert torch.equal(one, other)
