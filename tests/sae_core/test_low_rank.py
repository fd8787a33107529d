"""Dense atoms of low rank, held to plain dense atoms W^T = A B."""

from __future__ import annotations

import json

import pytest
import torch

from sae_core import io
from sae_core.arms import CellError, DenseLowRank, DenseTied, Quantised
from sae_core.comparison import best_cosines
from sae_core.ground_truth import cosine_measures
from sae_core.inference import infer_by, multiply_adds
from sae_core.losses import reconstruction_loss
from sae_core.stability import pw_mcc
from sae_core.storage import count_storage
from sae_core.theory import babel

M, N, R, K = 24, 80, 6, 3


def sample(count=400):
    """Activations (count, M) whose variance falls along directions that are no neurons, and whose mean is not 0."""
    g = torch.Generator().manual_seed(1)
    return torch.randn(count, M, generator=g) * 0.8 ** torch.arange(M) @ torch.randn(M, M, generator=g) + 1


def low_rank(encoder="topk", seed=0):
    return DenseLowRank(N, R, K, encoder).build(M, seed, 0.5, sample()).double()


def as_dense(sae):
    """The SAE with its atoms written out as M values each, and all else the same."""
    pursuit = not hasattr(sae.encoder, "b_enc")
    twin = DenseTied(N, K, "mp_refit" if pursuit else "topk").build(M, 0, float(sae.scale)).double()
    with torch.no_grad():
        twin.dictionary.values.copy_(sae.dictionary.dense_atoms())
        twin.b_dec.copy_(sae.b_dec)
        if not pursuit:
            twin.encoder.b_enc.copy_(sae.encoder.b_enc.normal_(generator=torch.Generator().manual_seed(2)))
    return twin


@pytest.mark.parametrize("encoder", ["topk", "mp_refit"])
@pytest.mark.parametrize("reading", ["encoder", "refit", "omp", "gomp2", "mp", "mp_cg1", "nested_floor20", "niht"])
@torch.no_grad()
def test_every_way_to_read_codes_is_that_of_the_same_atoms_written_out(encoder, reading):
    sae, h = low_rank(encoder), sample(20).double()
    twin = as_dense(sae)
    codes, indices = infer_by(sae, reading).encode(h)
    wanted, atoms = infer_by(twin, reading).encode(h)
    assert torch.equal(indices.sort(1).values, atoms.sort(1).values)
    torch.testing.assert_close(sae.decode(codes, indices), twin.decode(wanted, atoms))
    torch.testing.assert_close(infer_by(sae, reading)(h).reconstruction, twin.decode(wanted, atoms))


def test_atoms_have_rank_r_and_any_such_atoms_can_be_written_so():
    """A random A B is the SAE's form after the QR decomposition that the arm's docstring names."""
    g = torch.Generator().manual_seed(3)
    a, b = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((N, R), (R, M)))
    u, lower = torch.linalg.qr(b.T)
    torch.testing.assert_close((a @ lower.T) @ u.T, a @ b)
    dictionary = low_rank().dictionary
    rows = dictionary.basis.leading(torch.eye(M, dtype=torch.float64), R).T
    torch.testing.assert_close(rows @ rows.T, torch.eye(R, dtype=torch.float64))
    torch.testing.assert_close(dictionary.dense_atoms(), dictionary.unit_values() @ rows)
    torch.testing.assert_close(dictionary.dense_atoms().norm(dim=1), torch.ones(N, dtype=torch.float64))


def test_b_starts_at_the_principal_directions_and_b_dec_at_the_mean():
    sae, h = DenseLowRank(N, R, K).build(M, 0, 0.5, sample()), sample()
    torch.testing.assert_close(sae.b_dec.detach(), h.mean(0) * 0.5)
    values, directions = torch.linalg.eigh(torch.cov(h.T))
    kept = (h - h.mean(0)) @ sae.dictionary.basis.leading(torch.eye(M), R)
    assert (kept.square().sum() / (len(h) - 1)).item() == pytest.approx(float(values[-R:].sum()), rel=1e-3)


def test_all_of_b_enc_starts_at_the_number_that_leaves_least():
    sae, h = DenseLowRank(N, R, K).build(M, 0, 0.5, sample()), sample()
    start = sae.encoder.b_enc.detach().clone()
    assert start.eq(start[0]).all() and start[0] < 0
    losses = []
    with torch.no_grad():
        for shift in (0.0, -0.02, 0.02):
            sae.encoder.b_enc.copy_(start + shift)
            losses.append(reconstruction_loss(sae.residual(h).residual).item())
        sae.encoder.b_enc.zero_()
        without = reconstruction_loss(sae.residual(h).residual).item()
    assert losses[0] < min(losses[1:]) and losses[0] < 0.7 * without
    assert not DenseLowRank(N, R, K).build(M, 0).encoder.b_enc.any()  # nothing is known of the data


def test_the_encoder_takes_r_times_m_plus_n_multiply_adds():
    one_shot = low_rank()
    assert multiply_adds(one_shot) == R * M + N * R
    assert multiply_adds(infer_by(low_rank("mp_refit"), "topk")) == R * M + N * R
    assert multiply_adds(infer_by(one_shot, "mp")) == R * M + K * N * R
    floor, plain = (multiply_adds(infer_by(one_shot, name)) for name in ("mp_floor20", "mp_refit"))
    assert floor - plain == R * M + R * (R + 1) // 2  # a pursuit that stops by gain needs all of a token's energy


def test_values_are_counted_with_the_shared_factor():
    counts = count_storage(DenseLowRank(N, R, K).build(M, 0))
    assert counts.learned_decoder_values == N * R + R * M and counts.basis_values == R * M
    assert counts.learned_parameters == N * R + R * M + N + M and counts.index_bits == 0
    assert counts.compression == pytest.approx(M * N / (N * R + R * M))


def test_re_aimed_atoms_point_along_what_the_rank_can_reach_of_a_direction():
    dictionary, directions = low_rank().dictionary, torch.randn(2, M, dtype=torch.float64)
    dictionary.set_atoms(torch.tensor([4, 9]), directions)
    reachable = dictionary.coordinates(directions).norm(dim=1) / directions.norm(dim=1)
    along = torch.cosine_similarity(dictionary.dense_atoms()[[4, 9]], directions)
    torch.testing.assert_close(along, reachable)


def test_dictionaries_of_other_bases_are_compared_in_the_neurons_space():
    ours, theirs = low_rank(seed=0), low_rank(seed=1)
    with torch.no_grad():
        theirs.dictionary.basis.vectors.normal_(generator=torch.Generator().manual_seed(5))
    dense = as_dense(ours).dictionary
    assert pw_mcc(ours.dictionary, dense)["pw_mcc"] == pytest.approx(1, abs=1e-5)
    assert pw_mcc(dense, ours.dictionary)["pw_mcc"] == pytest.approx(1, abs=1e-5)
    found = pw_mcc(ours.dictionary, theirs.dictionary)
    assert found == pytest.approx(pw_mcc(ours.dictionary, as_dense(theirs).dictionary) | {
        key: found[key] for key in ("pw_mcc_chance", "pw_mcc_ceiling")
    })  # fmt: skip
    assert found["pw_mcc"] < found["pw_mcc_ceiling"] < 1
    assert float(best_cosines(ours.dictionary, dense).min()) == pytest.approx(1)
    torch.testing.assert_close(babel(ours.dictionary, K), babel(dense, K))
    features = torch.nn.functional.normalize(torch.randn(10, M, generator=torch.Generator().manual_seed(6)), dim=1)
    measured, wanted = cosine_measures(ours.dictionary, features), cosine_measures(dense, features)
    assert measured["mcc"] == pytest.approx(wanted["mcc"]) and measured["mcc_ceiling"] < wanted["mcc_ceiling"] == 1


@pytest.mark.parametrize("rank, kind", [(0, ValueError), (-1, ValueError), (25, CellError)])
def test_a_rank_outside_1_to_d_in_is_named(rank, kind):
    with pytest.raises(kind, match=f"sae.rank={rank} must be in 1..24") as raised:
        DenseLowRank(N, rank, K).sizes(M)
    assert raised.type is kind


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 3},
        {"format": 1},
        {"degree": 5},
        {"degree": 25},
        {"degree": 0},
        {"always_on": 1},
        {"sparse": True},
        {"basis": {"name": "reflections5_trained", "seed": None, "value_bits": 32}},
        {"basis": "remove"},
    ],
)
def test_a_file_whose_config_does_not_fit_is_refused(tmp_path, changes):
    io.save(DenseLowRank(N, R, K).build(M, 0), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 6 and io.load(tmp_path).dictionary.degree == R
    changed = {key: value for key, value in {**config, **changes}.items() if value != "remove"}
    (tmp_path / "cfg.json").write_text(json.dumps(changed))
    with pytest.raises(io.SAEFileError, match=str(tmp_path)):
        io.load(tmp_path)


@pytest.mark.parametrize("bits", [8, 1.58])
def test_a_low_rank_of_few_bits_is_read_back(tmp_path, bits):
    sae = Quantised(DenseLowRank(N, R, K), bits).build(M, 0)
    io.save(sae, tmp_path)
    found, h = io.load(tmp_path), torch.randn(9, M)
    assert torch.equal(found(h).reconstruction, sae(h).reconstruction)
    assert found.dictionary.value_bits == sae.dictionary.value_bits < 32
