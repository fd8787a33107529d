"""The compiled CPU kernels beyond the contract: bad rows, threads, instruction sets, and that they are built at all."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch

from sae_core.kernels import cpu, reference
from sae_core.kernels.dispatch import BACKENDS, why_unavailable
from tests.contracts.test_kernels import CPU, FAST, by_index, problem
from tests.contracts.test_pursuits import PURSUITS, picks, residual_norms
from tests.contracts.test_pursuits import problem as targets_and_atoms

needs_compiled = pytest.mark.skipif("cpu" not in FAST, reason=f"cpu backend: {why_unavailable('cpu', CPU)}")


@needs_compiled
@pytest.mark.parametrize("wrong", [-1, 8, 60_000, 1 << 40])
def test_compiled_kernels_refuse_rows_outside_the_input(wrong):
    x, values, support, bias = problem(5, 8, 20, 2)
    codes, indices = BACKENDS["cpu"].encode_topk(x, values, support, bias, 20)
    support[3, 1] = wrong
    with pytest.raises(IndexError, match="rows of the support"):
        BACKENDS["cpu"].encode_topk(x, values, support, bias, 2)
    with pytest.raises(IndexError, match="rows outside"):
        BACKENDS["cpu"].decode(codes, indices, values, support, 8)


@needs_compiled
@pytest.mark.parametrize("wrong", [-1, 20])
def test_sums_of_a_step_refuse_picks_that_are_no_latents(wrong):
    x, values, support, bias = problem(5, 8, 20, 2)
    codes, indices = cpu.encode_topk(x, values, support, bias, 3)
    indices[2, 1] = wrong
    with pytest.raises(IndexError, match="1 picks are not in 0..19"):
        cpu.loss_sums(x, codes, indices, *cpu.unit_norm(values), support, None, 0, False)


def result_of_each_compiled_kernel(x, values, support, bias, k):
    """The results of all compiled kernels; codes and indices come first."""
    codes, indices = cpu.encode_topk(x, values, support, bias, k)
    unit, inverse = cpu.unit_norm(values)
    dense = reference.densify(unit, support, x.shape[1])
    sparse = cpu.loss_sums(x, codes, indices, unit, inverse, support, unit, 2, False)
    sums = cpu.loss_sums(x, codes, indices, dense, inverse, None, dense.clone(), 0, False)
    return (
        codes,
        indices,
        cpu.encode_topk(x, reference.densify(values, support, x.shape[1]), None, bias, k)[1],
        cpu.weighted_atoms(codes, indices, values, support, x.shape[1], x),
        cpu.atom_products(x, indices, values, support),
        cpu.atom_gradient(codes, indices, x, support, len(values)),
        unit,
        cpu.unit_norm_gradient(values, unit, inverse),
        *(part for part in (*sparse, *sums) if part is not None),
    )


@needs_compiled
def test_compiled_results_do_not_depend_on_the_number_of_threads():
    inputs = problem(150, 40, 3000, 5, torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = result_of_each_compiled_kernel(*inputs, 24)
        torch.set_num_threads(3)
        for got, wanted in zip(result_of_each_compiled_kernel(*inputs, 24), alone, strict=True):
            assert torch.equal(got, wanted)
    finally:
        torch.set_num_threads(threads)


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_compiled_instruction_sets_agree(level, dtype):
    inputs = problem(75, 37, 3000, 5, dtype)
    wanted = result_of_each_compiled_kernel(*inputs, 24)
    try:
        if cpu.limit_instructions(level) != level:
            pytest.skip("this machine lacks the instruction set")
        got = result_of_each_compiled_kernel(*inputs, 24)
    finally:
        cpu.limit_instructions(2)
    assert torch.equal(got[2].sort(1).values, wanted[2].sort(1).values)  # picks may come in another order
    for results in zip(got, wanted, strict=True):
        if results[0].shape == got[1].shape and results[0].is_floating_point():  # it has one value for each pick
            results = by_index(results[0], got[1])[0], by_index(results[1], wanted[1])[0]
        if results[0].is_floating_point():
            torch.testing.assert_close(*results)
    assert torch.equal(got[1].sort(1).values, wanted[1].sort(1).values)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="no g++ on Linux")
def test_the_compiled_backend_is_there_where_a_compiler_is():
    """A build that breaks is easily overlooked, because torch_gather computes instead; here it fails."""
    assert why_unavailable("cpu", CPU) is None


@needs_compiled
@pytest.mark.parametrize("name", [*PURSUITS])
@pytest.mark.parametrize("degree", [3, 9, 40, None])
def test_compiled_results_depend_neither_on_threads_nor_on_instructions(name, degree):
    """Of these degrees, matching pursuit changes correlations, holds rows of the Gram matrix, and makes all anew."""
    x, values, support = targets_and_atoms(150, 96, 500, degree)

    def pursue():
        return PURSUITS[name](BACKENDS["cpu"], x, values, support, 12)

    wanted, threads = pursue(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = pursue()
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
        torch.set_num_threads(threads)
        for level in (0, 1):
            if cpu.limit_instructions(level) == level:
                found = pursue()
                assert picks(found) == picks(wanted)
                torch.testing.assert_close(*(residual_norms(x, f, values, support) for f in (found, wanted)))
    finally:
        torch.set_num_threads(threads)
        cpu.limit_instructions(2)


@needs_compiled
@pytest.mark.parametrize("tokens, degree", [(3, 4), (150, 4), (150, 30)])
@pytest.mark.parametrize("refit, signed", [(True, True), (False, True), (True, False)])
def test_matching_pursuit_picks_the_same_atoms_in_each_way_to_update_its_correlations(tokens, degree, refit, signed):
    x, values, support = targets_and_atoms(tokens, 96, 510, degree)
    wanted = reference.matching_pursuit(x, values, support, 12, signed, refit)
    for way in cpu.WAYS:
        with cpu.updating_by(way):
            found = cpu.matching_pursuit(x, values, support, 12, signed, refit)
        assert torch.equal(found[1], wanted[1])
        torch.testing.assert_close(found[0], wanted[0])


def picked_alike(x, values, support, k, signed, ways=("anew", "screened")):
    """Matching pursuit picks alike in two ways; where a token's picks differ, correlations were a rounding apart."""
    found = {}
    for way in ways:
        with cpu.updating_by(way):
            found[way] = cpu.matching_pursuit(x, values, support, k, signed, True)
    (codes, indices), (others, wanted) = found[ways[1]], found[ways[0]]
    same = (indices == wanted).all(1)
    assert same.float().mean() >= 0.99
    torch.testing.assert_close(codes[same], others[same], equal_nan=True)
    torch.testing.assert_close(
        *(residual_norms(x, result, values, support) for result in found.values()), rtol=1e-3, atol=0, equal_nan=True
    )
    return codes, indices


@needs_compiled
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "tokens, d_in, n, degree, k", [(300, 96, 510, 9, 12), (70, 256, 2050, 30, 40), (33, 40, 41, 1, 41)]
)
def test_correlations_of_16_bits_lead_to_the_picks_of_float_ones(tokens, d_in, n, degree, k, signed, level):
    x, values, support = targets_and_atoms(tokens, d_in, n, degree, torch.float32)
    try:
        if cpu.limit_instructions(level) != level:
            pytest.skip("this machine lacks the instruction set")
        codes, indices = picked_alike(x, values, support, k, signed)
    finally:
        cpu.limit_instructions(2)
    few = reference.matching_pursuit(x[:8].double(), values.double(), support, k, signed, True)
    torch.testing.assert_close(
        residual_norms(x[:8].double(), (codes[:8].double(), indices[:8]), values.double(), support),
        residual_norms(x[:8].double(), few, values.double(), support),
        rtol=1e-3,
        atol=1e-4,
    )


@needs_compiled
def test_correlations_that_16_bits_cannot_tell_apart_are_told_apart_in_float():
    """Each atom has a twin of another group whose values differ by a ten thousandth."""
    x, values, support = targets_and_atoms(300, 96, 256, 9, torch.float32)
    other = values + 1e-4 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    twins = torch.cat((values, other / other.norm(dim=1, keepdim=True)))
    _, indices = picked_alike(x, twins, torch.cat((support, support)), 1, False)
    assert 0.4 < (indices < 256).float().mean() < 0.6


@needs_compiled
def test_correlations_of_16_bits_bear_extreme_targets_and_atoms():
    """Targets of any scale, 0, an atom itself, on one row alone, and not finite; equal atoms; values of equal size."""
    x, values, support = targets_and_atoms(200, 96, 512, 9, torch.float32)
    x[:20] *= 1e30
    x[20:40] *= 1e-30
    x[40], x[41, 3], x[42, 5] = 0, torch.nan, torch.inf
    x[43:60] = reference.densify(values, support, 96)[43:60]
    x[60:70] = torch.eye(96)[:10]
    values[100:110], support[100:110] = values[200:210], support[200:210]
    values[300:400] = values[300:400].sign() / 3
    codes, _ = picked_alike(x, values, support, 12, False)
    assert codes[41:43].isnan().all() and not codes[:41].isnan().any() and not codes[43:].isnan().any()
    torch.testing.assert_close(codes[43:60, 0].abs(), torch.ones(17))


@needs_compiled
@pytest.mark.parametrize("spoil", ["long", "nan", "twice"])
def test_atoms_that_16_bits_could_not_bear_are_read_in_float(spoil):
    x, values, support = targets_and_atoms(100, 96, 512, 9, torch.float32)
    if spoil == "long":
        values[7] *= 1.3
    elif spoil == "nan":
        values[7, 2] = torch.nan
    else:
        support[7, 3] = support[7, 4]
    found = []
    for way in ("changes", "screened"):
        with cpu.updating_by(way):
            found.append(cpu.matching_pursuit(x, values, support, 8, True, False))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


MANY = 12_000  # latents: so many that changes keep a list of those with the largest correlations


@needs_compiled
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("d_in, degree, k", [(300, 3, 60), (300, 1, 12), (70, 2, 70)])
def test_the_largest_of_many_correlations_that_change_are_found(d_in, degree, k, signed, level):
    """Of degree 1, many atoms are equal; 70 picks leave nothing on 70 rows."""
    x, values, support = targets_and_atoms(20, d_in, MANY, degree)
    x[3], x[4, 1], x[5] = 0, torch.nan, reference.densify(values, support, d_in)[7]
    try:
        if cpu.limit_instructions(level) != level:
            pytest.skip("this machine lacks the instruction set")
        with cpu.updating_by("changes"):
            codes, indices = cpu.matching_pursuit(x, values, support, k, signed, False)
    finally:
        cpu.limit_instructions(2)
    wanted = reference.matching_pursuit(x, values, support, k, signed, False)
    assert torch.equal(indices, wanted[1])
    torch.testing.assert_close(codes, wanted[0], equal_nan=True)


@needs_compiled
@pytest.mark.parametrize("signed", [True, False])
def test_the_largest_of_many_equal_correlations_is_the_first_also_where_their_list_overflows(signed):
    """All correlations are equal at first, and so all on the list; a pick raises some. All numbers are exact."""
    generator = torch.Generator().manual_seed(0)
    support = torch.rand(20_000, 16, generator=generator).argsort(1)[:, :2].sort(1).values
    values = torch.tensor([1.0, -0.5]).double().repeat(len(support), 1)
    turned = torch.rand(len(support), generator=generator) < 0.5
    values[turned] = values[turned].flip(1)
    x = torch.ones(2, 16).double()
    with cpu.updating_by("changes"):
        found = cpu.matching_pursuit(x, values, support, 12, signed, False)
    for got, wanted in zip(found, reference.matching_pursuit(x, values, support, 12, signed, False), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@needs_compiled
def test_matching_pursuit_is_the_same_where_not_all_rows_of_the_gram_matrix_have_room():
    """In 30 MiB there is room for 1,706 of 4,608 rows; the tokens pick more atoms than that, and some of them twice."""
    x, values, support = targets_and_atoms(128, 576, 4608, 28, torch.float32)
    threads = torch.get_num_threads()
    try:
        with cpu.updating_by("rows"):
            torch.set_num_threads(1)
            codes, indices = cpu.matching_pursuit(x, values, support, 32, True, True)
            torch.set_num_threads(4)
            again = cpu.matching_pursuit(x, values, support, 32, True, True)
    finally:
        torch.set_num_threads(threads)
    assert len(indices.unique()) > 1706
    assert torch.equal(codes, again[0]) and torch.equal(indices, again[1])
    few = reference.matching_pursuit(x[-8:].double(), values.double(), support, 32, True, True)
    assert picks((codes[-8:], indices[-8:])) == picks(few)


@needs_compiled
def test_matching_pursuit_on_dense_atoms_is_the_same_with_and_without_their_gram_matrix(monkeypatch):
    x, values, _ = targets_and_atoms(40, 30, 90, None)
    with_gram = cpu.matching_pursuit(x, values, None, 6, True, True)
    monkeypatch.setattr(cpu, "_GRAM_VALUES", 0)
    without = cpu.matching_pursuit(x, values, None, 6, True, True)
    assert torch.equal(with_gram[1], without[1])
    torch.testing.assert_close(with_gram[0], without[0])
