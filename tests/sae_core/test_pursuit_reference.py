"""The reference pursuits against scikit-learn, planted codes and each other, also where the literature is silent."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from sae_core.pursuit import reference
from sae_core.supports import expander_support

M, N, K = 40, 90, 6


def dictionary(kind="dense", seed=0):
    g = torch.Generator().manual_seed(seed)
    if kind == "dense":
        atoms = torch.randn(N, M, generator=g, dtype=torch.float64)
    else:
        values = torch.randn(N, 5, generator=g, dtype=torch.float64)
        atoms = torch.zeros(N, M, dtype=torch.float64).scatter(1, expander_support(M, N, 5, seed), values)
    return torch.nn.functional.normalize(atoms, dim=1)


def target(seed=1):
    return torch.randn(M, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(atoms, k, seed=2, positive=False):
    g = torch.Generator().manual_seed(seed)
    indices = torch.randperm(N, generator=g)[:k]
    codes = torch.rand(k, generator=g, dtype=torch.float64) + 0.5
    if not positive:
        codes *= torch.randint(0, 2, (k,), generator=g) * 2 - 1
    return codes @ atoms[indices], set(indices.tolist())


ALGORITHMS = {
    "omp": lambda a, y, k: reference.omp(a, y, k),
    "omp_magnitude": lambda a, y, k: reference.omp(a, y, k, signed=False),
    "gomp": lambda a, y, k: reference.gomp(a, y, k, 4),
    "mp": lambda a, y, k: reference.matching_pursuit(a, y, k, refit=False),
    "mp_refit": lambda a, y, k: reference.matching_pursuit(a, y, k),
    "corrected": lambda a, y, k: reference.corrected_matching_pursuit(a, y, k, 12),
    "mp_floor": lambda a, y, k: reference.nested_pursuit(a, y, k, 1e-4, [N]),
    "nested": lambda a, y, k: reference.nested_pursuit(a, y, k, 1e-4, [N // 3, N]),
    "niht": reference.niht,
    "cosamp": reference.cosamp,
}
each = pytest.mark.parametrize("name", ALGORITHMS)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("k", [1, 3, 12, 30])
def test_omp_by_magnitude_gives_the_codes_of_scikit_learn(kind, k):
    atoms, y = dictionary(kind), target()
    found = reference.omp(atoms, y, k, signed=False)
    theirs = torch.from_numpy(orthogonal_mp(atoms.T.numpy(), y.numpy(), n_nonzero_coefs=k))
    assert set(found.indices.tolist()) == set(theirs.nonzero().flatten().tolist())
    torch.testing.assert_close(found.codes, theirs[found.indices])


@each
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_few_planted_atoms_are_found(name, kind):
    atoms = dictionary(kind)
    y, support = planted(atoms, 2, positive=name not in ("omp_magnitude", "niht", "cosamp"))
    found = ALGORITHMS[name](atoms, y, 2 if name != "gomp" else 4)
    assert support <= set(found.indices.tolist())
    if name != "mp":
        assert found.residual_norm < 1e-6 * y.norm()


@each
def test_the_residual_norm_is_that_of_the_codes_and_atoms_are_distinct(name):
    atoms, y = dictionary(), target()
    found = ALGORITHMS[name](atoms, y, K)
    assert len(set(found.indices.tolist())) == K and found.codes.shape == (K,)
    torch.testing.assert_close(found.residual_norm, (y - found.codes @ atoms[found.indices]).norm())
    assert found.residual_norm < y.norm()


@each
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e6, 1e30])
def test_scaling_the_target_scales_the_codes(name, scale):
    atoms, y = dictionary(), target()
    plain, scaled = ALGORITHMS[name](atoms, y, K), ALGORITHMS[name](atoms, y * scale, K)
    assert set(plain.indices.tolist()) == set(scaled.indices.tolist())
    torch.testing.assert_close(scaled.residual_norm / scale, plain.residual_norm)


@each
def test_a_zero_target_has_codes_of_zero_on_the_first_atoms(name):
    found = ALGORITHMS[name](dictionary(), torch.zeros(M, dtype=torch.float64), K)
    assert found.indices.tolist() == list(range(K))
    assert not found.codes.any() and found.residual_norm == 0


@each
@pytest.mark.parametrize("k", [8, 12])
def test_duplicate_atoms_and_picks_up_to_the_rank_or_beyond_are_handled(name, k):
    """Atoms span 8 dimensions only, and each is there twice."""
    g = torch.Generator().manual_seed(3)
    basis = torch.randn(8, M, generator=g, dtype=torch.float64)
    atoms = torch.nn.functional.normalize(torch.randn(20, 8, generator=g, dtype=torch.float64) @ basis, dim=1)
    atoms = torch.cat([atoms, atoms])
    y = torch.randn(8, generator=g, dtype=torch.float64) @ basis + 0.1 * target()
    found = ALGORITHMS[name](atoms, y, k)
    assert torch.isfinite(found.codes).all() and torch.isfinite(found.residual_norm)
    assert len(set(found.indices.tolist())) == k
    best = (y - torch.linalg.lstsq(basis.T, y[:, None]).solution[:, 0] @ basis).norm()
    assert found.residual_norm >= best - 1e-9


def test_signed_omp_picks_the_largest_correlation_and_the_other_the_largest_magnitude():
    atoms = torch.eye(4, dtype=torch.float64)
    y = torch.tensor([-5.0, 3.0, 1.0, 0.5], dtype=torch.float64)
    assert reference.omp(atoms, y, 2).indices.tolist() == [1, 2]
    assert reference.omp(atoms, y, 2, signed=False).indices.tolist() == [0, 1]


def test_blocks_of_one_are_omp_and_a_block_of_k_is_the_one_shot_choice():
    atoms, y = dictionary(), target()
    assert torch.equal(reference.gomp(atoms, y, K, 1).indices, reference.omp(atoms, y, K).indices)
    one_shot = (atoms @ y).topk(K).indices
    assert torch.equal(reference.gomp(atoms, y, K, K).indices, one_shot)
    assert torch.equal(reference.gomp(atoms, y, K, 4).indices[:4], one_shot[:4])
    torch.testing.assert_close(reference.gomp(atoms, y, K, K).codes, reference.refit(atoms, y, one_shot).codes)


def test_each_step_of_omp_is_greedy_and_leaves_a_residual_orthogonal_to_its_picks():
    atoms, y = dictionary(), target()
    for k in range(1, K):
        shorter, longer = reference.omp(atoms, y, k), reference.omp(atoms, y, k + 1)
        residual = y - shorter.codes @ atoms[shorter.indices]
        assert (atoms[shorter.indices] @ residual).abs().max() < 1e-9
        assert torch.equal(longer.indices[:k], shorter.indices)
        scores = (atoms @ residual).scatter(0, shorter.indices, float("-inf"))
        assert longer.indices[k] == scores.argmax() and longer.residual_norm < shorter.residual_norm


def test_matching_pursuit_subtracts_projections_and_its_refit_can_only_help():
    atoms, y = dictionary(), target()
    plain, refitted = reference.matching_pursuit(atoms, y, K, refit=False), reference.matching_pursuit(atoms, y, K)
    residual = y.clone()
    for index, code in zip(plain.indices, plain.codes, strict=True):
        torch.testing.assert_close(code, atoms[index] @ residual)
        residual -= code * atoms[index]
    assert torch.equal(plain.indices, refitted.indices) and refitted.residual_norm < plain.residual_norm


def test_a_single_group_without_a_floor_is_matching_pursuit_with_a_refit():
    atoms, y = dictionary(), target()
    plain, nested = reference.matching_pursuit(atoms, y, K), reference.nested_pursuit(atoms, y, K, 1e-9, [N])
    assert torch.equal(plain.indices, nested.indices)
    torch.testing.assert_close(plain.codes, nested.codes)


def test_a_pick_that_explains_less_than_the_floor_is_not_made():
    """The atoms are orthogonal, so that the shares are known: .9, .09 and .01 of the target's energy."""
    atoms, y = torch.eye(5, dtype=torch.float64), torch.tensor([0.1, 0, 0.9**0.5, 0, 0.3], dtype=torch.float64)
    for floor, wanted in ((0.5, [2]), (0.05, [2, 4]), (0.005, [2, 4, 0])):
        found = reference.nested_pursuit(atoms, y, 4, floor, [5])
        made = found.codes != 0
        assert found.indices[made].tolist() == wanted and len(set(found.indices.tolist())) == 4
        torch.testing.assert_close(found.codes[made], y[wanted])


def test_a_general_atom_is_picked_before_a_special_one_that_fits_better():
    """Atom 0 is a parent, atom 1 a child that holds its parent too: the best fit silences the parent."""
    atoms = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]]).double(), dim=1)
    y = torch.tensor([1.0, 0.9, 0]).double()
    absorbing = reference.nested_pursuit(atoms, y, 2, 0.01, [4])
    nested = reference.nested_pursuit(atoms, y, 2, 0.01, [1, 4])
    assert absorbing.indices[absorbing.codes != 0].tolist() == [1]
    assert nested.indices[nested.codes != 0].tolist() == [0, 2] and nested.residual_norm < 1e-9


def test_picks_of_the_first_groups_come_first_when_there_is_no_room_for_all():
    atoms, y = torch.eye(4, dtype=torch.float64), torch.tensor([1.0, 2, 3, 4]).double()
    assert reference.nested_pursuit(atoms, y, 3, 0.01, [2, 4]).indices.tolist() == [1, 0, 3]


def test_the_thresholding_pursuits_end_in_fixed_points():
    """NIHT's codes are a stationary point on their support; CoSaMP's are its least squares."""
    atoms = dictionary()
    y, support = planted(atoms, 3)
    y = y + 0.01 * target()
    for found in (reference.niht(atoms, y, 3), reference.cosamp(atoms, y, 3)):
        assert set(found.indices.tolist()) == support
        torch.testing.assert_close(found.codes, reference.refit(atoms, y, found.indices).codes, rtol=1e-3, atol=1e-3)
