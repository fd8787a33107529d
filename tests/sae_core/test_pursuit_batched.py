"""Pursuits as they are called: by function and by name, as encoders, their costs and their gradients."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from sae_core.arms import DenseTied, DenseWarmTied, Expander
from sae_core.dictionary import DenseDictionary, SparseDictionary
from sae_core.inference import infer_by, inference_name, multiply_adds
from sae_core.kernels.reference import densify
from sae_core.losses import reconstruction_loss
from sae_core.pursuit import batched, reference, solvers
from sae_core.supports import expander_support

M, N, K = 40, 90, 6


def dictionary(kind):
    g = torch.Generator().manual_seed(0)
    if kind == "dense":
        return DenseDictionary(M, N, g).double()
    return SparseDictionary(M, expander_support(M, N, 5, 0), g).double()


def atoms_of(d):
    return densify(d.unit_values().detach(), d.support, M)


def targets(count=20):
    return torch.randn(count, M, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def planted(d, count=20, k=3):
    g = torch.Generator().manual_seed(2)
    indices = torch.stack([torch.randperm(N, generator=g)[:k] for _ in range(count)])
    codes = torch.randn(count, k, generator=g, dtype=torch.float64)
    return torch.einsum("tk,tkm->tm", codes, atoms_of(d)[indices])


# Each pursuit by name: on a dictionary and a batch of targets, and on dense atoms and a single target.
CALLS = {
    "omp": (lambda d, x, k: batched.omp(d, x, k), lambda a, y, k: reference.omp(a, y, k)),
    "omp_magnitude": (
        lambda d, x, k: batched.omp(d, x, k, signed=False),
        lambda a, y, k: reference.omp(a, y, k, signed=False),
    ),
    "gomp4": (lambda d, x, k: batched.gomp(d, x, k, 4), lambda a, y, k: reference.gomp(a, y, k, 4)),
    "mp": (
        lambda d, x, k: batched.matching_pursuit(d, x, k, refit=False),
        lambda a, y, k: reference.matching_pursuit(a, y, k, refit=False),
    ),
    "mp_refit": (
        lambda d, x, k: batched.matching_pursuit(d, x, k),
        lambda a, y, k: reference.matching_pursuit(a, y, k),
    ),
    "mp_cg3": (
        lambda d, x, k: batched.solve(solvers.solver("mp_cg3"), d, x, k),
        lambda a, y, k: reference.corrected_matching_pursuit(a, y, k, 3),
    ),
    "mp_floor80": (
        lambda d, x, k: batched.solve(solvers.solver("mp_floor80"), d, x, k),
        lambda a, y, k: reference.nested_pursuit(a, y, k, 0.08, [N]),
    ),
    "nested_floor40": (
        lambda d, x, k: batched.solve(solvers.solver("nested_floor40"), d, x, k),
        lambda a, y, k: reference.nested_pursuit(a, y, k, 0.04, [N // 32, N // 8, N]),
    ),
    "niht": (lambda d, x, k: batched.niht(d, x, k), lambda a, y, k: reference.niht(a, y, k)),
    "cosamp": (lambda d, x, k: batched.cosamp(d, x, k), lambda a, y, k: reference.cosamp(a, y, k)),
}
each = pytest.mark.parametrize("name", CALLS)
kinds = pytest.mark.parametrize("kind", ["dense", "sparse"])


@each
@kinds
@pytest.mark.parametrize("what", ["random", "planted"])
def test_a_batched_pursuit_picks_and_leaves_what_the_reference_does(name, kind, what):
    d = dictionary(kind)
    x, k = (targets(), K) if what == "random" else (planted(d), 3)
    found = CALLS[name][0](d, x, k)
    by_name = batched.solve(solvers.solver(name), d, x, k)
    assert torch.equal(found.indices, by_name.indices) and torch.equal(found.codes, by_name.codes)
    for y, indices, norm in zip(x, found.indices, found.residual_norm, strict=True):
        wanted = CALLS[name][1](atoms_of(d), y, k)
        assert set(indices.tolist()) == set(wanted.indices.tolist())
        torch.testing.assert_close(norm, wanted.residual_norm, rtol=1e-7, atol=1e-7)


@each
@kinds
def test_targets_of_any_scale_and_targets_of_zeros_or_nan_are_handled(name, kind):
    d, x = dictionary(kind).float(), targets(6).float()
    x[4], x[5, 3] = 0, float("nan")
    plain = CALLS[name][0](d, x, K)
    assert plain.indices[4].tolist() == plain.indices[5].tolist() == list(range(K))
    assert not plain.codes[4].any() and plain.codes[5].isnan().all() and plain.residual_norm[4] == 0
    for exponent in (-100, 100):
        scaled = CALLS[name][0](d, x[:4] * 2.0**exponent, K)
        assert torch.equal(scaled.indices, plain.indices[:4])
        assert torch.equal(scaled.codes, plain.codes[:4] * 2.0**exponent)


@kinds
@pytest.mark.parametrize("k", [1, 5, 20])
def test_omp_by_magnitude_gives_the_codes_of_scikit_learn(kind, k):
    d, x = dictionary(kind), targets(8)
    found = batched.omp(d, x, k, signed=False)
    theirs = torch.from_numpy(orthogonal_mp(atoms_of(d).T.numpy(), x.T.numpy(), n_nonzero_coefs=k)).view(N, -1).T
    dense = torch.zeros_like(theirs).scatter(1, found.indices, found.codes)
    torch.testing.assert_close(dense, theirs)


def test_refit_on_given_atoms_never_does_worse_than_the_codes_that_came_with_them():
    d, x = dictionary("sparse"), targets()
    plain = batched.matching_pursuit(d, x, K, refit=False)
    again = batched.refit(d, x, plain.indices)
    assert (again.residual_norm < plain.residual_norm).all()


ONE_NAMES = {
    "block4": "gomp4",
    "gomp1": "omp",
    "block1_magnitude": "omp_magnitude",
    "block16_magnitude": "gomp16_magnitude",
    "mp_refit": "mp_refit",
    "mp_cg12": "mp_cg12",
    "mp_floor10": "mp_floor10",
    "nested_floor10": "nested_floor10",
    "niht": "niht",
}


@pytest.mark.parametrize("name, one_name", ONE_NAMES.items())
def test_a_pursuit_of_several_names_is_recorded_under_one(name, one_name):
    assert solvers.canonical(name) == inference_name(name) == one_name


@pytest.mark.parametrize(
    "name",
    [
        "gomp0",
        "gomp",
        "block-1",
        "OMP",
        "niht_magnitude",
        "mp_refit_refit",
        "mp_cg0",
        "mp_refit_cg1",
        "mp_magnitude_cg1",
        "niht_cg1",
        "mp_floor0",
        "nested",
        "nested_floor1000",
        "",
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(ValueError, match="choose from .*mp_refit"):
        inference_name(name)


@pytest.mark.parametrize("name", ["mp", "niht", "encoder", "refit", "nonsense"])
def test_an_encoder_that_cannot_be_trained_with_is_refused(name):
    with pytest.raises(ValueError, match="sae.encoder=" + name):
        Expander(N, 5, K, encoder=name)


def test_the_gradient_is_that_of_the_least_squares_optimum():
    """It is held against autograd through the solve itself: by the envelope theorem both are the same."""
    sae = Expander(N, 5, K, encoder="mp_refit").build(M, seed=0).double()
    with torch.no_grad():
        sae.b_dec += 0.1
    output = sae.residual(targets())
    reconstruction_loss(output.residual).backward()
    ours = sae.dictionary.values.grad.clone(), sae.b_dec.grad.clone()
    sae.zero_grad()
    atoms = densify(sae.dictionary.unit_values(), sae.dictionary.support, M)[output.indices].mT
    x = (targets() - sae.b_dec)[..., None]
    left = x - atoms @ torch.linalg.solve(atoms.mT @ atoms, atoms.mT @ x)
    left.square().sum((1, 2)).mean().backward()
    torch.testing.assert_close(ours, (sae.dictionary.values.grad, sae.b_dec.grad))


@kinds
def test_enough_steps_of_conjugate_gradients_are_least_squares(kind):
    d = dictionary(kind)
    found, wanted = (batched.solve(solvers.solver(name), d, targets(), K) for name in ("mp_cg12", "mp_refit"))
    assert torch.equal(found.indices.sort(1).values, wanted.indices.sort(1).values)
    torch.testing.assert_close(found.residual_norm, wanted.residual_norm)


@kinds
def test_each_step_lowers_what_is_left(kind):
    d = dictionary(kind)
    left = [batched.solve(solvers.solver(f"mp_cg{steps}"), d, targets(), K).residual_norm for steps in (1, 2, 3)]
    plain = batched.solve(solvers.solver("mp"), d, targets(), K).residual_norm
    assert (left[0] < plain).all() and (left[1] < left[0]).all() and (left[2] <= left[1]).all()


def test_the_gradient_that_ignores_codes_is_nearly_autograd_s_through_the_steps():
    """The more steps there are the nearer it comes: at least squares it is exact (envelope theorem)."""
    sae, gaps = Expander(N, 5, K, encoder="mp_cg1").build(M, seed=0).double(), []
    atoms = densify(sae.dictionary.unit_values(), sae.dictionary.support, M)
    for steps in (1, 4, 8):
        read = infer_by(sae, f"mp_cg{steps}")
        sae.zero_grad()
        output = read.residual(targets())
        reconstruction_loss(output.residual).backward()
        ours = sae.dictionary.values.grad.clone()
        sae.zero_grad()
        start = infer_by(sae, "mp").residual(targets())
        codes = [
            reference.conjugate_gradients(atoms, y, row, code, steps)
            for y, row, code in zip(targets(), start.indices, start.codes.detach(), strict=True)
        ]
        left = targets() - torch.stack([c @ atoms[row] for c, row in zip(codes, start.indices, strict=True)])
        left.square().sum(1).mean().backward(retain_graph=True)
        gaps.append(float((ours - sae.dictionary.values.grad).norm() / ours.norm()))
    assert gaps[0] < 0.2 and gaps[1] < 0.1 * gaps[0] and gaps[2] < 1e-4


@pytest.mark.parametrize("n, lengths", [(2048, [64, 256, 2048]), (20, [2, 20]), (3, [3])])
def test_nested_prefixes_are_shares_of_the_latents_and_none_is_empty(n, lengths):
    assert solvers.prefixes_of("nested_floor10", n) == lengths
    assert solvers.prefixes_of("mp_floor10", n) == solvers.prefixes_of("mp_refit", n) == [n]


@pytest.mark.parametrize("name", ["mp_floor30", "nested_floor30"])
def test_fewer_than_k_picks_carry_a_gradient_where_the_floor_ends_a_pursuit(name):
    """Latents that only fill up the k picks have code 0, and their atoms no gradient."""
    sae = Expander(N, 5, 20, encoder=name).build(M, seed=0)
    output = sae.residual(targets().float())
    reconstruction_loss(output.residual).backward()
    used = output.indices[output.codes != 0].unique()
    assert len(used) > 0 and float((output.codes != 0).double().mean()) < 1
    assert set(sae.dictionary.values.grad.abs().sum(1).nonzero().flatten().tolist()) <= set(used.tolist())


@pytest.mark.parametrize(
    "arm", [Expander(N, 5, K), DenseTied(N, K), DenseWarmTied(N, K), Expander(N, 5, K, "mp_refit")]
)
def test_every_inference_reads_codes_from_every_sae_and_better_ones_fit_better(arm):
    sae, h = arm.build(M, seed=0), targets(200).float()
    errors = {}
    with torch.no_grad():
        for name in (
            "encoder",
            "topk",
            "refit",
            "omp",
            "gomp4",
            "mp",
            "mp_refit",
            "mp_cg2",
            "mp_floor5",
            "nested_floor5",
            "niht",
            "cosamp",
        ):
            other = infer_by(sae, name)
            assert other.dictionary is sae.dictionary and other.b_dec is sae.b_dec
            errors[name] = float((h - other(h).reconstruction).norm())
            assert multiply_adds(other) > 0
    assert errors["refit"] <= errors["encoder"] + 1e-3 and errors["omp"] < errors["gomp4"] < errors["topk"]
    assert errors["mp_refit"] < errors["mp_cg2"] < errors["mp"]
    assert multiply_adds(infer_by(sae, "gomp4")) < multiply_adds(infer_by(sae, "omp"))


def test_multiply_adds_are_those_counted_by_hand():
    sae = Expander(N, 5, K).build(M, seed=0)
    degrees = sae.dictionary.support.flatten().bincount(minlength=M)
    changed = round(sum(int(degrees[row]) for atom in sae.dictionary.support for row in atom) / N)
    refit = K * (K + 1) // 2 * 5 + K**3 // 6 + 2 * (K * K + 2 * K * 5)
    assert multiply_adds(sae) == N * 5
    assert multiply_adds(infer_by(sae, "mp")) == N * 5 + K * changed
    assert multiply_adds(infer_by(sae, "mp_refit")) == N * 5 + K * changed + refit
    assert multiply_adds(infer_by(sae, "mp_floor10")) == N * 5 + K * changed + refit
    assert multiply_adds(infer_by(sae, "nested_floor10")) == N * 5 + K * changed + 3 * refit
    assert multiply_adds(infer_by(sae, "refit")) == N * 5 + refit
    step = 2 * K * 5 + 2 * M + 3 * K
    assert multiply_adds(infer_by(sae, "mp_cg1")) == N * 5 + K * changed + K * 5 + step
    assert multiply_adds(infer_by(sae, "mp_cg3")) == N * 5 + K * changed + K * 5 + 3 * step
    assert multiply_adds(DenseWarmTied(N, K).build(M, seed=0)) == N * M
