"""What every arm owes: the sizes it says, learning, saving bit-exactly, storing what it counts."""

from __future__ import annotations

import pytest
import torch

from sae_core import io
from sae_core.arms import CellError, DenseMatched, DenseRandInit, DenseTied, DenseWarmTied, Expander
from sae_core.dictionary import SparseDictionary
from sae_core.losses import reconstruction_loss
from sae_core.storage import count_storage

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
]
by_name = pytest.mark.parametrize("arm", ARMS, ids=lambda arm: f"{arm.name}-{getattr(arm, 'encoder', 'own')}")


def batch(tokens=64):
    return torch.randn(tokens, M, generator=torch.Generator().manual_seed(1)) * 3


@by_name
def test_builds_the_sizes_it_says(arm):
    sae, sizes = arm.build(M, seed=0), arm.sizes(M)
    assert (sae.dictionary.n_latents, sae.dictionary.degree, sae.k) == sizes
    out = sae(batch())
    assert out.reconstruction.shape == (64, M) and out.codes.shape == out.indices.shape == (64, K)


@by_name
def test_same_seed_same_sae_and_another_seed_another(arm):
    first, again, other = (arm.build(M, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["dictionary.values"], other["dictionary.values"])


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
    assert losses[-1] < 0.6 * losses[0]


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
    assert n_bytes - header == 4 * storage.learned_parameters + explicit_indices


def test_learned_counts_are_the_papers():
    counts = {arm.name: count_storage(arm.build(M, 0)) for arm in ARMS if getattr(arm, "encoder", "topk") == "topk"}
    assert counts["expander"].learned_decoder_values == D * N
    assert counts["expander"].learned_parameters == D * N + N + M
    by_pursuit = count_storage(Expander(N, D, K, encoder="mp_refit").build(M, 0))
    assert by_pursuit.learned_parameters == D * N + M  # no encoder bias
    assert counts["expander"].compression == M / D
    assert counts["dense_tied"].learned_parameters == M * N + N + M
    assert counts["dense_warmtied"].learned_parameters == 2 * M * N + N + M
    assert counts["dense_matched"].learned_decoder_values == counts["expander"].learned_decoder_values


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
