"""What every arm owes: the sizes it says, learning, saving bit-exactly, storing what it counts."""

from __future__ import annotations

import pytest
import torch

from sae_core import io
from sae_core.arms import (
    PCA,
    Banded,
    CellError,
    Clustered,
    DenseMatched,
    DenseMatchedOwn,
    DenseRandInit,
    DenseTied,
    DenseWarmTied,
    Dynamic,
    Expander,
    ExpanderBalanced,
    FrozenRandom,
    PrunedRetuned,
    Quantised,
)
from sae_core.dictionary import SparseDictionary
from sae_core.losses import reconstruction_loss
from sae_core.storage import count_storage, planned_bytes, planned_counts

M, N, K, D = 24, 96, 4, 5
ARMS = [
    Expander(N, D, K),
    DenseTied(N, K),
    DenseMatched(N, D, K),
    DenseWarmTied(N, K),
    DenseRandInit(N, K),
    Expander(N, D, K, encoder="mp_refit"),
    Expander(N, D, K, encoder="block2"),
    DenseTied(N, K, encoder="omp"),
    DenseMatched(N, D, K, encoder="mp_refit"),
    ExpanderBalanced(N, D, K),
    Clustered(N, D, K),
    Banded(N, D, K),
    FrozenRandom(N, D, K),
    FrozenRandom(N, D, K, encoder="mp_refit"),
    Dynamic(N, D, K),
    Dynamic(N, D, K, encoder="mp_refit"),
    PrunedRetuned(N, D, K),
    PrunedRetuned(N, D, K, encoder="mp_refit"),
    DenseMatched(N, D, K, match="parameters"),
    DenseMatched(N, D, K, match="bytes"),
    DenseMatchedOwn(N, D, K),
    DenseMatchedOwn(N, D, K, match="parameters"),
    DenseMatchedOwn(N, D, K, match="bytes"),
    PCA(N, D),
    Quantised(Expander(N, D, K), 8),
    Quantised(Expander(N, D, K, encoder="mp_refit"), 4),
    Quantised(DenseTied(N, K), 4),
    Quantised(Dynamic(N, D, K), 8),
]
by_name = pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.label)


def batch(tokens=64):
    return torch.randn(tokens, M, generator=torch.Generator().manual_seed(1)) * 3


@by_name
def test_builds_the_sizes_it_says(arm):
    sae, sizes = arm.build(M, seed=0), arm.sizes(M)
    assert (sae.dictionary.n_latents, sae.dictionary.degree, sae.k) == sizes
    out = sae(batch())
    assert out.reconstruction.shape == (64, M) and out.codes.shape == out.indices.shape == (64, sizes.k)


@by_name
def test_same_seed_same_sae_and_another_seed_another(arm):
    first, again, other = (arm.build(M, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    values = [arm.build(M, seed=s).dictionary.values for s in (0, 0, 1)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])
    assert ("dictionary.values" in other) != isinstance(arm, FrozenRandom)


@by_name
def test_the_residual_is_what_the_reconstruction_leaves_in_scaled_units(arm):
    sae, h = arm.build(M, seed=0, scale=0.3), batch()
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(sae.residual(h).residual, 0.3 * (h - sae(h).reconstruction), rtol=1e-4, atol=1e-5)
        for dtype in (torch.float16, torch.bfloat16):  # as they lie in the cache
            low = h.to(dtype)
            assert torch.equal(sae.residual(low).residual, sae.residual(low.float()).residual)


@by_name
def test_fast_kernels_give_every_parameter_and_the_input_the_reference_s_gradient(arm):
    gradients = []
    for backend in ("reference", "auto"):
        sae, h = arm.build(M, seed=0, scale=0.3).double(), batch().double().requires_grad_()
        sae.backend = backend
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1
        reconstruction_loss(sae.residual(h).residual).backward()
        gradients.append({"h": h.grad, **{name: p.grad for name, p in sae.named_parameters()}})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@by_name
def test_every_parameter_gets_a_gradient_and_training_lowers_the_loss(arm):
    sae, h = arm.build(M, seed=0), batch()
    if not arm.by_gradient:
        pytest.skip("its parameters are not found by gradient")
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = reconstruction_loss(sae.residual(h).residual)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in sae.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < (0.95 if isinstance(arm, FrozenRandom) else 0.6) * losses[0]


@by_name
def test_scaling_the_input_and_the_scale_scales_the_output(arm):
    h = batch()
    plain, scaled = arm.build(M, 0, scale=1.0), arm.build(M, 0, scale=0.25)
    torch.testing.assert_close(scaled(4 * h).reconstruction, 4 * plain(h).reconstruction)


@by_name
def test_saved_and_loaded_is_bit_identical_and_counted_as_stored(arm, tmp_path):
    sae = arm.build(M, seed=3, scale=0.7)
    n_bytes = io.save(sae, tmp_path)
    assert n_bytes == (tmp_path / "sae.safetensors").stat().st_size
    loaded = io.load(tmp_path)
    h = batch()
    assert torch.equal(sae(h).reconstruction, loaded(h).reconstruction)
    storage = count_storage(sae)
    header = int.from_bytes((tmp_path / "sae.safetensors").read_bytes()[:8], "little") + 8
    explicit_indices = 0 if storage.index_bits <= 64 else -(-storage.index_bits // 8)
    values = -(-storage.learned_decoder_values * storage.value_bits // 8)
    others = storage.learned_parameters - storage.learned_decoder_values
    assert n_bytes - header == values + 4 * others + explicit_indices
    assert loaded.dictionary.value_bits == sae.dictionary.value_bits


@pytest.mark.parametrize("d_in", [M, 29])
@by_name
def test_storage_is_known_to_the_byte_before_anything_is_built(arm, d_in, tmp_path):
    sae, layout = arm.build(d_in, seed=3), arm.layout(d_in)
    assert planned_counts(layout) == count_storage(sae) and planned_bytes(layout) == io.save(sae, tmp_path)
    assert (layout.n_latents, layout.degree) == arm.sizes(d_in)[:2]


def test_storage_of_a_large_sae_is_known_without_drawing_its_support():
    layout = ExpanderBalanced(1 << 20, 102, 32).layout(1 << 16)
    assert planned_counts(layout).learned_decoder_values == 102 << 20 and planned_bytes(layout) > 4 * 102 << 20


def test_learned_counts_are_the_papers():
    counts = {arm.label: count_storage(arm.build(M, 0)) for arm in ARMS}
    assert counts["expander"].learned_decoder_values == D * N
    assert counts["expander"].learned_parameters == D * N + N + M
    by_pursuit = count_storage(Expander(N, D, K, encoder="mp_refit").build(M, 0))
    assert by_pursuit.learned_parameters == D * N + M  # no encoder bias
    assert counts["expander"].compression == M / D
    assert counts["dense_tied"].learned_parameters == M * N + N + M
    assert counts["dense_warmtied"].learned_parameters == 2 * M * N + N + M
    assert counts["dense_matched"].learned_decoder_values == counts["expander"].learned_decoder_values
    frozen = counts["frozen_random"]
    assert (frozen.learned_decoder_values, frozen.learned_parameters, frozen.value_bits) == (0, N + M, 0)
    assert counts["expander-8bit"].value_bits == 8 and counts["expander"].value_bits == 32
    assert {arm: counts[arm].index_bits for arm in ("expander_balanced", "clustered", "banded", "frozen_random")} == (
        dict.fromkeys(("expander_balanced", "clustered", "banded", "frozen_random"), 64)
    )
    assert counts["dynamic"].index_bits == counts["pruned_retuned"].index_bits == D * N * 5


@pytest.mark.parametrize("degree", [3, 7, 20, 30])
@pytest.mark.parametrize("arm", [DenseMatched, DenseMatchedOwn])
def test_matched_dictionaries_hold_as_much_as_the_sparse_one(arm, degree, tmp_path):
    """To within half a latent, in each of the three senses; counted on what is built and saved."""
    d_in, n, k = 40, 320, 2
    sparse = Expander(n, degree, k).build(d_in, 0)
    indexed = Dynamic(n, degree, k).build(d_in, 0)
    latent = d_in * (2 if arm is DenseMatchedOwn else 1) + 1
    by_values = arm(n, degree, k).build(d_in, 0)
    assert abs(by_values.dictionary.values.numel() - n * degree) <= d_in / 2
    by_parameters = count_storage(arm(n, degree, k, match="parameters").build(d_in, 0)).learned_parameters
    assert abs(by_parameters - count_storage(sparse).learned_parameters) <= latent / 2
    sizes = [io.save(sae, tmp_path / str(i)) for i, sae in
             enumerate((arm(n, degree, k, match="bytes").build(d_in, 0), indexed))]  # fmt: skip
    assert abs(sizes[0] - sizes[1]) <= 4 * latent / 2 + 200  # headers of the files differ


def test_pruned_keeps_the_largest_entries_biases_and_scale_of_its_source():
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
    """Against the truncated singular value decomposition of the centred data."""
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
def test_pca_of_a_rank_that_means_nothing_is_left_out(arm, message):
    if message is None:
        assert arm.sizes(M) == (4, M, 4)
        return
    with pytest.raises(CellError, match=message):
        arm.sizes(M)


def test_frozen_atoms_stay():
    sae, h = FrozenRandom(N, D, K).build(M, seed=0), batch()
    before = sae.dictionary.values.clone()
    sae.dictionary.set_atoms(torch.arange(5), torch.randn(5, M))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1.0)
    reconstruction_loss(sae.residual(h).residual).backward()
    optimizer.step()
    assert torch.equal(sae.dictionary.values, before) and sae.encoder.b_enc.abs().sum() > 0


@pytest.mark.parametrize("make, message", [
    (lambda: Quantised(Expander(N, D, K), 3), "sae.bits=3"),
    (lambda: DenseMatched(N, D, K, match="size"), "match=size"),
    (lambda: DenseMatchedOwn(N, D, K, match=""), "match="), (lambda: Dynamic(N, D, K, every=0), "sae.every=0"),
    (lambda: Dynamic(N, D, K, drop=1.5), "sae.drop=1.5"), (lambda: Dynamic(N, D, K, until=-1), "sae.until=-1"),
    (lambda: Clustered(N, D, K, encoder="mp"), "does not end in least squares"),
    (lambda: Quantised(FrozenRandom(N, D, K), 8), "sae.of=frozen_random has no values to round"),
    (lambda: Quantised(DenseWarmTied(N, K), 8), "sae.of=dense_warmtied"),
    (lambda: Quantised(DenseMatchedOwn(N, D, K), 8), "sae.of=dense_matched_own"),
    (lambda: Quantised(Quantised(Expander(N, D, K), 8), 4), "sae.of=expander-8bit"),
])  # fmt: skip
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_dense_tensor_in_an_expander():
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


def test_matched_rounds_to_the_nearest_latent():
    assert DenseMatched(2048, 3, 4).sizes(256).n_latents == 24
    assert DenseMatched(300, 3, 1).sizes(200).n_latents == 5  # 4.5 -> 5


@pytest.mark.parametrize("arm, message", [
    (Expander(96, 0, 4), r"d=0 must be in 1\.\.24"),
    (Expander(96, 25, 4), r"d=25 must be in 1\.\.24"),
    (DenseTied(96, 0), "k=0"),
    (DenseTied(-1, 2), "n=-1"),
])  # fmt: skip
def test_sizes_out_of_range_are_named(arm, message):
    with pytest.raises(ValueError, match=message):
        arm.sizes(M)


@pytest.mark.parametrize("arm", [Expander(8, 3, 4), DenseTied(8, 4), DenseMatched(N, 1, 2)])
def test_unidentifiable_cells_are_left_out_not_wrong(arm):
    with pytest.raises(CellError, match="cannot be unique"):
        arm.sizes(M)


def test_warmtied_starts_as_tied():
    warm, tied = DenseWarmTied(N, K).build(M, 0), DenseTied(N, K).build(M, 0)
    h = batch()
    torch.testing.assert_close(warm(h).reconstruction, tied(h).reconstruction)


def test_explicit_support_is_packed_and_comes_back(tmp_path):
    from sae_core.encoders import TiedTopK
    from sae_core.sae import SAE

    support = torch.stack([torch.randperm(M, generator=torch.Generator().manual_seed(i))[:D].sort().values
                           for i in range(N)])  # fmt: skip
    dictionary = SparseDictionary(M, support, torch.Generator().manual_seed(0))
    sae = SAE(dictionary, TiedTopK(dictionary), K)
    io.save(sae, tmp_path)
    loaded = io.load(tmp_path)
    assert torch.equal(loaded.dictionary.support, support)
    assert count_storage(sae).index_bits == D * N * 5  # 24 rows: 5 bits an index
