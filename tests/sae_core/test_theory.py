"""Each quantity of a dictionary against a plain loop over atoms, and against values known by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sae_core import theory
from sae_core.dictionary import DenseDictionary, SparseDictionary
from sae_core.kernels.reference import densify
from sae_core.supports import expander_support

M, N = 20, 45


def sparse(degree, seed=0):
    g = torch.Generator().manual_seed(seed)
    return SparseDictionary(M, expander_support(M, N, degree, seed), g).double()


def kinds():
    """Dictionaries with one row an atom, with three, with all rows, and dense."""
    return [sparse(1), sparse(3), sparse(M), DenseDictionary(M, N, torch.Generator().manual_seed(0)).double()]


@pytest.mark.parametrize("dictionary", kinds())
def test_coherence_and_babel_are_those_found_over_all_pairs(dictionary, monkeypatch):
    monkeypatch.setattr(theory, "_CHUNK_VALUES", 7 * N)  # several chunks, the last one short
    atoms = densify(dictionary.unit_values().detach(), dictionary.support, M)
    gram = (atoms @ atoms.T).abs()
    for i in range(N):
        gram[i, i] = 0
    wanted = [max(float(row.sort(descending=True).values[:s].sum()) for row in gram) for s in range(1, 6)]
    torch.testing.assert_close(theory.babel(dictionary, 5), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("degree", [1, 2, 3, M])
def test_pairs_that_share_two_rows_are_counted_as_by_a_walk_over_all_pairs(degree, monkeypatch):
    monkeypatch.setattr(theory, "_CHUNK_VALUES", 7 * N)
    dictionary = sparse(degree)
    rows = [set(atom.tolist()) for atom in dictionary.support]
    wanted = sum(len(a & b) >= 2 for a, b in itertools.combinations(rows, 2))
    assert theory.pairs_sharing_two_rows(dictionary) == wanted


@pytest.mark.parametrize("dictionary", [sparse(3), DenseDictionary(M, N, torch.Generator().manual_seed(0)).double()])
def test_of_very_many_atoms_some_are_compared_with_all_and_the_record_says_so(dictionary, monkeypatch):
    whole, pairs = theory.babel(dictionary, 3), theory.pairs_sharing_two_rows(dictionary)
    monkeypatch.setattr(theory, "MANY", N - 1)
    monkeypatch.setattr(theory, "SOME", 15)
    some = theory.babel(dictionary, 3)
    assert (some <= whole + 1e-12).all() and float(some[0]) > 0.5 * float(whole[0])
    assert theory.pairs_sharing_two_rows(dictionary) == pytest.approx(pairs, rel=0.6)
    found = theory.theory_measures(dictionary, torch.arange(12).view(3, 4))
    assert found["coherence"]["kind"] == found["babel"]["kind"] == "bound" and found["flatness_max"]["kind"] == "exact"
    if dictionary.support is not None:
        assert found["pairs_sharing_two_rows"]["kind"] == "estimate"


def test_flatness_is_one_for_equal_entries_and_sqrt_d_for_a_single_one():
    dictionary = sparse(4)
    with torch.no_grad():
        dictionary.values[0] = torch.tensor([0.5, -0.5, 0.5, 0.5])
        dictionary.values[1] = torch.tensor([0.0, -3.0, 0.0, 0.0])
    beta = theory.flatness(dictionary)
    assert beta[0] == pytest.approx(1) and beta[1] == pytest.approx(2)
    assert ((beta >= 1 - 1e-9) & (beta <= 2 + 1e-9)).all()


def test_expansion_deficits_are_those_counted_by_hand():
    support = torch.tensor([[0, 1], [1, 2], [5, 6], [0, 1]])
    sets = torch.tensor([[0, 1, 2], [0, 3, 1], [2, 0, 1]])
    assert theory.expansion_deficits(support, sets, 8).tolist() == pytest.approx([1 / 6, 1 / 2, 1 / 6])


def test_the_certificates_have_the_values_of_the_paper_s_formulas():
    assert theory.r_id(2.0, 0.25) == pytest.approx(2.0)
    assert theory.r_omp(2.0, 0.25, 3) == pytest.approx(7.0)


@pytest.mark.parametrize("dictionary", kinds())
def test_the_measures_of_a_record_are_repeatable_finite_and_in_order(dictionary):
    active = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(i))[:6] for i in range(50)])
    found = theory.theory_measures(dictionary, active, seed=1)
    assert theory.theory_measures(dictionary, active, seed=1) == found
    for name, entry in found.items():
        if name != "certificates":
            assert entry["kind"] in ("exact", "estimate", "bound") and math.isfinite(entry["value"])
    assert found["coherence"]["value"] <= found["babel"]["value"] <= found["babel_omp"]["value"]
    if dictionary.support is None:
        assert "certificates" not in found and "coverage" not in found
        return
    assert found["coverage"]["value"] == 1 and found["row_degree_min"]["value"] >= 1
    curves = found["certificates"]
    assert curves["k"] == [1, 2, 4, 6] and curves["kind"] == "bound"
    for name in ("r_id_random", "r_id_observed", "r_omp_random", "r_omp_observed"):
        assert len(curves[name]) == 4 and all(value >= 0 for value in curves[name])
    assert found["deficit_observed_mean"]["value"] <= found["deficit_observed_max"]["value"] <= 1


def test_disjoint_atoms_expand_perfectly_and_are_certified():
    """With one atom on each row no two share one, so every ratio is 0 and the certificate holds."""
    dictionary = SparseDictionary(M, torch.arange(M)[:, None], torch.Generator().manual_seed(0))
    found = theory.theory_measures(dictionary, torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]))
    assert found["coherence"]["value"] == 0 and found["deficit_random_max"]["value"] == 0
    assert set(found["certificates"]["r_omp_random"]) == {0.0}
