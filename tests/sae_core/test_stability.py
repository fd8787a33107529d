"""Stability between two SAEs, held to plain numpy and to planted answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from sae_core.arms import DenseTied, Expander, FrozenRandom
from sae_core.correlation import best_matches, code_matrix, correlations, fires
from sae_core.dictionary import SparseDictionary
from sae_core.quantised import quantised, rounding_measures
from sae_core.stability import ReadTokens, functional_matches, pw_mcc, stability_measures

M, N, K, T = 32, 96, 5, 4000


def tokens(seed=0, count=T):
    """Activations with structure: sparse sums of 40 directions (tokens, M)."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.randn(40, M, generator=torch.Generator().manual_seed(9))
    amounts = torch.rand(count, 40, generator=g) * (torch.rand(count, 40, generator=g) < 0.1)
    return amounts @ directions + 0.05 * torch.randn(count, M, generator=g)


def read(sae, h=None, windows=None):
    h = tokens() if h is None else h
    with torch.no_grad():
        codes, indices = sae.encode(h)
    return ReadTokens(codes, indices, torch.arange(len(h)) // 20 if windows is None else windows)


def permuted(sae, order):
    """The same SAE with its latents in another order."""
    other = DenseTied(N, K).build(M, 0) if sae.dictionary.support is None else Expander(N, 7, K).build(M, 0)
    with torch.no_grad():
        other.dictionary.values.copy_(sae.dictionary.values[order])
        if sae.dictionary.support is not None:
            other.dictionary.support = sae.dictionary.support[order]
        other.encoder.b_enc.copy_(sae.encoder.b_enc[order])
    return other


def dense(found):
    """Codes as a dense table (tokens, N)."""
    return torch.zeros(len(found.codes), N).scatter_(1, found.indices, found.codes).double().numpy()


def matrix(found):
    return code_matrix(found.codes, found.indices, N)


def test_correlations_are_numpys():
    ours, theirs = read(Expander(N, 7, K).build(M, 0)), read(DenseTied(N, K).build(M, 1))
    a, b = dense(ours), dense(theirs)
    with np.errstate(invalid="ignore"):
        table = np.corrcoef(a.T, b.T)[:N, N:]
    found = correlations(matrix(ours), matrix(theirs))
    assert found == pytest.approx(table.diagonal(), nan_ok=True)
    of_ours, of_theirs = best_matches(matrix(ours), matrix(theirs))
    known = np.nan_to_num(table, nan=-2.0)
    assert known[np.arange(N), of_ours] == pytest.approx(known.max(1))
    assert known[of_theirs, np.arange(N)] == pytest.approx(known.max(0))
    assert np.array_equal(fires(matrix(ours)), (a != 0).any(0))


def test_few_latents_at_a_time_give_the_same_matches(monkeypatch):
    ours, theirs = (matrix(read(Expander(N, 7, K).build(M, seed))) for seed in (0, 1))
    whole = best_matches(ours, theirs)
    monkeypatch.setattr("sae_core.correlation._CHUNK_VALUES", 10 * N)
    assert all(np.array_equal(a, b) for a, b in zip(best_matches(ours, theirs), whole, strict=True))


def test_measures_are_those_of_plain_loops_over_dense_codes():
    saes = Expander(N, 7, K).build(M, 0), DenseTied(N, K).build(M, 1)
    reads = [read(sae) for sae in saes]
    found = stability_measures(saes[0].dictionary, reads[0], saes[1].dictionary, reads[1])

    def plain(a, b):
        values, half = [], T // 2
        for ours, theirs in ((a, b), (b, a)):
            for i in range(N):
                if not (ours[:half, i].any() and ours[half:, i].any()):
                    continue
                with np.errstate(invalid="ignore"):
                    first = [np.corrcoef(ours[:half, i], theirs[:half, j])[0, 1] for j in range(N)]
                    score = np.corrcoef(ours[half:, i], theirs[half:, int(np.nanargmax(first))])[0, 1]
                values.append(0.0 if np.isnan(score) else score)
        return np.array(values)

    a, b = (dense(one) for one in reads)
    matches, by_chance = plain(a, b), plain(a, np.roll(b, -T // 2, axis=0))
    assert found["functional_match"] == pytest.approx(matches.mean())
    assert found["above_50"] == pytest.approx((matches > 0.5).mean())
    assert found["live_fraction"] == pytest.approx(len(matches) / (2 * N))
    assert found["functional_match_chance"] == pytest.approx(by_chance.mean())
    atoms = [np.zeros((N, M)) for _ in saes]
    values = [sae.dictionary.unit_values().detach().numpy() for sae in saes]
    np.put_along_axis(atoms[0], saes[0].dictionary.support.numpy(), values[0], 1)
    atoms[1] = values[1]
    cosines = np.abs(atoms[0] @ atoms[1].T)
    assert found["pw_mcc"] == pytest.approx(cosines[linear_sum_assignment(-cosines)].mean(), rel=1e-5)
    reach = np.sqrt(np.array([(atoms[1][:, rows] ** 2).sum(1) for rows in saes[0].dictionary.support.numpy()]))
    assert found["pw_mcc_ceiling"] == pytest.approx(reach[linear_sum_assignment(-reach)].mean(), rel=1e-5)
    assert found["pw_mcc"] <= found["pw_mcc_ceiling"] + 1e-6


@pytest.mark.parametrize("arm", [Expander(N, 7, K), DenseTied(N, K)], ids=lambda arm: arm.name)
@pytest.mark.parametrize("shuffled", [False, True])
def test_an_sae_with_itself_scores_1_also_with_its_latents_permuted(arm, shuffled):
    sae = arm.build(M, 0)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1)) if shuffled else torch.arange(N)
    other = permuted(sae, order)
    found = stability_measures(sae.dictionary, read(sae), other.dictionary, read(other))
    for name in ("functional_match", "above_90", "above_70", "above_50", "pw_mcc", "pw_mcc_ceiling"):
        assert found[name] == pytest.approx(1, abs=1e-5)
    assert found["functional_match_chance"] < 0.1 and found["above_50_chance"] == 0


def test_codes_that_have_nothing_to_do_with_each_other_score_what_chance_says():
    """The chosen match of thousands is no better on the other half than any."""
    saes = [Expander(N, 7, K).build(M, seed) for seed in (0, 1)]
    reads = [read(saes[0], tokens(0)), read(saes[1], tokens(1))]  # of unrelated tokens
    found = stability_measures(saes[0].dictionary, reads[0], saes[1].dictionary, reads[1])
    assert found["functional_match"] == pytest.approx(found["functional_match_chance"], abs=0.01)
    assert abs(found["functional_match"]) < 0.02 and found["above_50"] == found["above_50_chance"] == 0
    chosen_and_scored_alike = functional_matches(matrix(reads[0])[: T // 2], matrix(reads[1])[: T // 2], T // 4)
    assert chosen_and_scored_alike.mean() < 0.05


def test_random_atoms_have_the_pw_mcc_that_chance_gives_and_order_does_not_matter():
    ours, theirs = (FrozenRandom(512, 7, K).build(128, seed).dictionary for seed in (0, 1))
    found, back = pw_mcc(ours, theirs), pw_mcc(theirs, ours)
    assert found["pw_mcc"] == pytest.approx(found["pw_mcc_chance"], abs=0.02) == pytest.approx(back["pw_mcc"], abs=0.02)
    assert found["pw_mcc"] < found["pw_mcc_ceiling"] < 1
    assert found["pw_mcc_ceiling"] == pytest.approx(back["pw_mcc_ceiling"])
    dense_ones = [DenseTied(512, K).build(128, seed).dictionary for seed in (0, 1)]
    assert pw_mcc(*dense_ones)["pw_mcc_ceiling"] == 1


def test_the_ceiling_is_reached_by_the_best_values():
    fixed, free = (Expander(N, 7, K).build(M, seed).dictionary for seed in (0, 1))
    atoms = torch.zeros(N, M).scatter_(1, fixed.support, fixed.unit_values().detach())
    reach = torch.stack([atoms[:, rows].norm(dim=1) for rows in free.support])
    rows, columns = linear_sum_assignment(-reach.numpy())
    best = SparseDictionary(M, free.support, torch.Generator())
    with torch.no_grad():
        best.values[rows] = atoms[columns].gather(1, free.support[rows])
    assert pw_mcc(best, fixed)["pw_mcc"] >= reach.numpy()[rows, columns].mean() - 1e-5


def test_what_cannot_be_measured_is_refused_or_none():
    sae = Expander(N, 7, K).build(M, 0)
    ours = read(sae)
    with pytest.raises(ValueError, match="not of the same tokens"):
        stability_measures(sae.dictionary, ours, sae.dictionary, read(sae, windows=torch.zeros(T, dtype=torch.long)))
    one = read(sae, windows=torch.zeros(T, dtype=torch.long))
    with pytest.raises(ValueError, match="one window is too few"):
        stability_measures(sae.dictionary, one, sae.dictionary, one)
    with pytest.raises(ValueError, match="d_in=32"):
        pw_mcc(sae.dictionary, Expander(N, 7, K).build(M + 1, 0).dictionary)
    silent = ours._replace(codes=torch.zeros_like(ours.codes))
    found = stability_measures(sae.dictionary, silent, sae.dictionary, silent)
    assert found["functional_match"] is None is found["above_90"] and found["live_fraction"] == 0


def test_rounding_is_measured_as_numpy_does():
    sae = Expander(N, 7, K).build(M, 0)
    rounded = quantised(sae, 4)
    a, b = read(sae), read(rounded)
    before, after = dense(a), dense(b)
    before[:, :3], after[:, :2], after[:, 3] = 0, 0, 0  # two dead, one that starts to fire, one that is silenced
    after[0, 2] = before[0, 3] = 1.0
    as_codes = [code_matrix(torch.from_numpy(x), torch.arange(N).expand(T, N), N) for x in (before, after)]
    found = rounding_measures(*as_codes)
    values = []
    for i in range(N):
        if before[:, i].any() and after[:, i].any():
            values.append(np.corrcoef(before[:, i], after[:, i])[0, 1])
        elif before[:, i].any() or after[:, i].any():
            values.append(0.0)
    assert found["correlation"] == pytest.approx(np.mean(values)) and 0.5 < found["correlation"] < 1
    assert found["below_90"] == pytest.approx(np.mean(np.array(values) < 0.9))
    gone = (before.any(0) & ~after.any(0)).sum()
    assert found["silenced"] == pytest.approx(gone / len(values)) and gone >= 1
    assert found["dead"] == pytest.approx(1 - len(values) / N) and len(values) <= N - 2
    assert rounding_measures(as_codes[0], as_codes[0])["correlation"] == pytest.approx(1)
    nothing = code_matrix(torch.zeros(T, 1), torch.zeros(T, 1, dtype=torch.long), N)
    assert rounding_measures(nothing, nothing) == {"correlation": None, "below_90": None, "silenced": None, "dead": 1.0}
