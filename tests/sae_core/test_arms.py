"""Single arms: how large matched ones are, what pruning, PCA and freezing keep, and which sizes are refused."""

from __future__ import annotations

import pytest
import torch

from sae_core import io
from sae_core.arms import (
    PCA,
    CellError,
    Clustered,
    DenseMatched,
    DenseMatchedOwn,
    DenseTied,
    DenseWarmTied,
    Dynamic,
    Expander,
    FrozenRandom,
    Kron,
    PrunedRetuned,
    Quantised,
)
from sae_core.dictionary import SparseDictionary
from sae_core.encoders import TiedTopK
from sae_core.losses import reconstruction_loss
from sae_core.sae import SAE
from sae_core.storage import count_storage
from tests.contracts.test_arms import D, K, M, N, batch


@pytest.mark.parametrize("degree", [3, 7, 20, 30])
@pytest.mark.parametrize("arm", [DenseMatched, DenseMatchedOwn])
def test_matched_dictionaries_hold_as_much_as_the_sparse_one(arm, degree, tmp_path):
    """They do so to within half a latent, in each of the three senses, counted on what is built and saved.

    By bytes they match indices of 6 bits, which take more than the ranks that the sparse one's file has in their place.
    """
    d_in, n, k = 40, 320, 2
    sparse = Expander(n, degree, k).build(d_in, 0)
    indexed = Dynamic(n, degree, k).build(d_in, 0)
    latent = d_in * (2 if arm is DenseMatchedOwn else 1) + 1
    by_values = arm(n, degree, k).build(d_in, 0)
    assert abs(by_values.dictionary.values.numel() - n * degree) <= d_in / 2
    by_parameters = count_storage(arm(n, degree, k, match="parameters").build(d_in, 0)).learned_parameters
    assert abs(by_parameters - count_storage(sparse).learned_parameters) <= latent / 2
    by_bytes = arm(n, degree, k, match="bytes").build(d_in, 0)
    dense, ranked = (io.save(sae, tmp_path / str(i)) for i, sae in enumerate((by_bytes, indexed)))
    with_indices = ranked + (n * degree * 6 - count_storage(indexed).index_bits) // 8
    assert abs(dense - with_indices) <= 4 * latent / 2 + 200  # the files' headers differ in length


def test_a_pruned_sae_keeps_the_largest_entries_the_biases_and_the_scale_of_its_source():
    arm = PrunedRetuned(N, D, K)
    source = arm.starts_from.build(M, seed=0, scale=0.3)
    with torch.no_grad():
        source.encoder.b_enc.normal_()
        source.b_dec.normal_()
    before = {key: value.clone() for key, value in source.state_dict().items()}
    pruned = arm.derive(source)
    atoms = source.dictionary.unit_values()
    dense = torch.zeros(N, M).scatter(1, pruned.dictionary.support, pruned.dictionary.values.detach())
    kept = dense != 0
    assert (kept.sum(1) == D).all() and torch.equal(dense[kept], atoms[kept])
    smallest_kept = torch.where(kept, atoms.abs(), torch.inf).amin(1)
    assert (torch.where(kept, 0, atoms.abs()).amax(1) <= smallest_kept).all()
    assert torch.equal(pruned.encoder.b_enc, source.encoder.b_enc) and torch.equal(pruned.b_dec, source.b_dec)
    assert float(pruned.scale) == float(source.scale)
    assert all(torch.equal(source.state_dict()[key], value) for key, value in before.items())


def test_pca_is_the_best_linear_reconstruction():
    """Its error is that of the truncated singular value decomposition of the centred data."""
    h = batch(500) @ torch.randn(M, M, generator=torch.Generator().manual_seed(5)) + 7
    sae = PCA(N, D).build(M, seed=0, scale=0.3)
    PCA(N, D).fit(sae, h.split(77))
    centred = (h - h.mean(0)).double()
    singular = torch.linalg.svdvals(centred)
    rank = PCA(N, D).sizes(M).n_latents
    assert rank == 20
    left = (h - sae(h).reconstruction).double().square().sum()
    torch.testing.assert_close(left, singular[rank:].square().sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("arm, message", [(PCA(N, 1), None), (PCA(N, 24), "rank 96"), (PCA(4, 1), "rank 0")])
def test_pca_of_a_rank_outside_1_to_d_in_is_left_out_of_a_grid(arm, message):
    if message is None:
        assert arm.sizes(M) == (4, M, 4)
        return
    with pytest.raises(CellError, match=message):
        arm.sizes(M)


def test_frozen_atoms_are_changed_neither_by_training_nor_by_aiming_them():
    sae, h = FrozenRandom(N, D, K).build(M, seed=0), batch()
    before = sae.dictionary.values.clone()
    sae.dictionary.set_atoms(torch.arange(5), torch.randn(5, M))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1.0)
    reconstruction_loss(sae.residual(h).residual).backward()
    optimizer.step()
    assert torch.equal(sae.dictionary.values, before) and sae.encoder.b_enc.abs().sum() > 0


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Quantised(Expander(N, D, K), 7), "sae.bits=7"),
        (lambda: DenseMatched(N, D, K, match="size"), "match=size"),
        (lambda: DenseMatchedOwn(N, D, K, match=""), "match="),
        (lambda: Dynamic(N, D, K, every=0), "sae.every=0"),
        (lambda: Dynamic(N, D, K, drop=1.5), "sae.drop=1.5"),
        (lambda: Dynamic(N, D, K, until=-1), "sae.until=-1"),
        (lambda: Clustered(N, D, K, encoder="mp"), "does not end in least squares"),
        (lambda: Quantised(FrozenRandom(N, D, K), 8), "sae.of=frozen_random cannot be quantised"),
        (lambda: Quantised(Kron(N, K), 8), "sae.of=kron"),
        (lambda: Quantised(Quantised(Expander(N, D, K), 8), 4), "sae.of=expander-8bit"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_expander_holds_no_dense_tensor():
    sae = Expander(4096, 2, 4).build(1024, seed=0)
    largest = max(t.numel() for t in [*sae.parameters(), *sae.buffers()])
    assert largest == 4096 * 2


def test_expander_memory_grows_with_degree_not_with_d_in():
    """A backward pass allocates nothing of size (d_in, n_latents)."""
    d_in, n = 4096, 8192
    sae = Expander(n, 2, 4).build(d_in, seed=0)
    h = torch.randn(4, d_in)
    with torch.profiler.profile(profile_memory=True) as profile:
        reconstruction_loss(sae.residual(h).residual).backward()
    assert max(e.cpu_memory_usage for e in profile.events()) < d_in * n * 4 / 50


def test_a_matched_dictionary_is_rounded_to_the_nearest_latent():
    assert DenseMatched(2048, 3, 4).sizes(256).n_latents == 24
    assert DenseMatched(300, 3, 1).sizes(200).n_latents == 5  # 4.5 -> 5


@pytest.mark.parametrize(
    "arm, message",
    [
        (Expander(96, 0, 4), r"d=0 must be in 1\.\.24"),
        (Expander(96, 25, 4), r"d=25 must be in 1\.\.24"),
        (DenseMatchedOwn(96, 25, 4), r"d=25 must be in 1\.\.24"),
        (DenseTied(96, 0), "k=0"),
        (DenseTied(-1, 2), "n=-1 must be at least 1"),
    ],
)
def test_sizes_out_of_range_are_named(arm, message):
    with pytest.raises(ValueError, match=message):
        arm.sizes(M)


@pytest.mark.parametrize(
    "arm",
    [
        Expander(0, 3, 4),
        DenseTied(0, 4),
        DenseWarmTied(0, 4),
        DenseMatched(0, 3, 4),
        DenseMatchedOwn(0, 3, 4),
        PCA(0, 3),
    ],
)
def test_no_latents_at_all_is_a_mistake_and_no_cell_to_leave_out(arm):
    with pytest.raises(ValueError, match="n=0 must be at least 1") as caught:
        arm.sizes(M)
    assert not isinstance(caught.value, CellError)


@pytest.mark.parametrize("arm", [Expander(8, 3, 4), DenseTied(8, 4), DenseMatched(N, 1, 2)])
def test_cells_whose_codes_cannot_be_unique_are_left_out_of_a_grid(arm):
    with pytest.raises(CellError, match="cannot be unique"):
        arm.sizes(M)


@pytest.mark.parametrize("arm", [DenseMatched, DenseMatchedOwn])
def test_a_dense_arm_that_would_have_no_latent_is_left_out_of_a_grid(arm):
    with pytest.raises(CellError, match="n'=0"):
        arm(9, 1, 2).sizes(M)  # 9 values, and one dense latent takes 24


def test_a_warm_tied_sae_starts_as_the_tied_one():
    warm, tied = DenseWarmTied(N, K).build(M, 0), DenseTied(N, K).build(M, 0)
    h = batch()
    torch.testing.assert_close(warm(h).reconstruction, tied(h).reconstruction)


def test_a_support_that_no_seed_draws_is_packed_and_comes_back(tmp_path):
    permutations = [torch.randperm(M, generator=torch.Generator().manual_seed(i)) for i in range(N)]
    support = torch.stack([rows[:D].sort().values for rows in permutations])
    dictionary = SparseDictionary(M, support, torch.Generator().manual_seed(0))
    sae = SAE(dictionary, TiedTopK(dictionary), K)
    io.save(sae, tmp_path)
    loaded = io.load(tmp_path)
    assert torch.equal(loaded.dictionary.support, support)
    assert count_storage(sae).index_bits == N * 16  # of 24 rows, 42,504 sets of 5
