"""The contract of every arm: it builds the sizes it says, learns, is saved bit-exactly, and stores what it counts.

Every arm of sparse atoms meets it in every basis, with both kinds of encoder.
"""

from __future__ import annotations

import atexit
import math
from dataclasses import replace
from tempfile import TemporaryDirectory

import pytest
import torch

from sae_core import io
from sae_core.arms import (
    ITDA,
    PCA,
    Banded,
    Clustered,
    Compressed,
    DenseLowRank,
    DenseMatched,
    DenseMatchedOwn,
    DenseRandInit,
    DenseTied,
    DenseWarmTied,
    Dynamic,
    Expander,
    ExpanderBalanced,
    FewBits,
    FrozenRandom,
    Imported,
    Kron,
    Prefix,
    ProductQuantised,
    PrunedRetuned,
    Quantised,
    SoftFrozen,
    TrellisCoded,
)
from sae_core.arms.base import Arm, SparseArm
from sae_core.encoders import BatchTopK, JumpReLU
from sae_core.formats import export
from sae_core.losses import matryoshka_loss
from sae_core.quantised import keep_rounded
from sae_core.storage import count_storage, planned_bytes, planned_counts

M, N, K, D = 24, 96, 4, 5
FOLDER = TemporaryDirectory()  # of an SAE in another library's format, as long as the process runs
atexit.register(FOLDER.cleanup)
export(DenseRandInit(N, K).build(M, seed=9, scale=0.6), "saelens", FOLDER.name)
OTHER = Imported(K, FOLDER.name)
io.save(DenseRandInit(N, K, encoder="batch_topk").build(M, seed=9, scale=0.6), f"{FOLDER.name}/batched")
BATCHED = Imported(K, f"{FOLDER.name}/batched")
with_thresholds = DenseRandInit(N, K, encoder="batch_topk").build(M, seed=9, scale=0.6)
with_thresholds.encoder.threshold.fill_(0.5)
export(with_thresholds, "saelens", f"{FOLDER.name}/thresholds")
THRESHOLDS = Imported(K, f"{FOLDER.name}/thresholds")
ARMS = [
    Expander(N, D, K),
    DenseTied(N, K),
    DenseMatched(N, D, K),
    DenseWarmTied(N, K),
    DenseRandInit(N, K),
    Expander(N, D, K, encoder="mp_refit"),
    Expander(N, D, K, encoder="block2"),
    Expander(N, D, K, encoder="mp_cg1"),
    DenseTied(N, K, encoder="omp"),
    DenseMatched(N, D, K, encoder="mp_refit"),
    DenseMatched(N, D, K, encoder="mp_cg2"),
    ExpanderBalanced(N, D, K),
    Clustered(N, D, K),
    Banded(N, D, K),
    FrozenRandom(N, D, K),
    FrozenRandom(N, D, K, encoder="mp_refit"),
    SoftFrozen(N, D, K),
    SoftFrozen(N, D, K, encoder="mp_refit"),
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
    DenseLowRank(N, D, K),
    DenseLowRank(N, 2, K),
    DenseLowRank(N, M, K),
    DenseLowRank(N, D, K, encoder="mp_refit"),
    DenseLowRank(N, D, K, encoder="mp_cg1"),
    ITDA(N, K, tokens=500),
    ITDA(N, K, encoder="omp", tokens=512),
    DenseLowRank(N, D, K, encoder="batch_topk"),
    Kron(N, K),
    Kron(N, K, base=4, extension=8, encoder="batch_topk"),
    Quantised(DenseLowRank(N, D, K), 8),
    *(arm(N, D, K, encoder="batch_topk") for arm in (Expander, FrozenRandom, Dynamic, PrunedRetuned, DenseMatched)),
    *(arm(N, K, encoder="batch_topk") for arm in (DenseTied, DenseWarmTied, DenseRandInit)),
    DenseMatchedOwn(N, D, K, encoder="batch_topk"),
    Quantised(Dynamic(N, D, K, encoder="batch_topk"), 4),
    *(Expander(N, D, K, encoder, prefixes=("1/8", "1/2")) for encoder in ("topk", "batch_topk", "mp_refit")),
    *(arm(N, K, prefixes=(20, 50)) for arm in (DenseTied, DenseWarmTied)),
    DenseMatched(N, D, K, prefixes=("1/2",)),
    Dynamic(N, D, K, prefixes=("1/4",)),
    PrunedRetuned(N, D, K, prefixes=("1/4",)),
    *(Prefix(arm(N, D, K), "1/4") for arm in (ExpanderBalanced, Banded, Dynamic, SoftFrozen, FrozenRandom)),
    Prefix(Expander(N, D, K, "batch_topk", prefixes=("1/8", "1/2")), 48),
    Prefix(DenseRandInit(N, K), 30),
    Quantised(Prefix(Dynamic(N, D, K), 48), 8),
    Quantised(Expander(N, D, K), 8),
    Quantised(Expander(N, D, K, encoder="mp_refit"), 4),
    Quantised(DenseTied(N, K), 4),
    Quantised(Dynamic(N, D, K), 8),
    *(Quantised(Expander(N, D, K), bits) for bits in (2, 1.58, 1)),
    *(FewBits(Expander(N, D, K), bits) for bits in (8, 4, 2, 1.58)),
    FewBits(Expander(N, D, K, encoder="mp_refit"), 1.58),
    FewBits(DenseTied(N, K), 2),
    FewBits(DenseMatched(N, D, K), 1.58),
    FewBits(DenseTied(N, K), 2, rounded_in="fourier"),
    FewBits(DenseMatched(N, D, K, encoder="mp_refit"), 1.58, rounded_in="fourier"),
    Quantised(DenseTied(N, K, encoder="batch_topk"), 4, rounded_in="fourier"),
    Quantised(DenseMatched(N, D, K), 2, rounded_in="fourier"),
    FewBits(DenseTied(N, K, encoder="mp_refit"), 1),
    FewBits(Dynamic(N, D, K), 2),
    FewBits(PrunedRetuned(N, D, K), 1.58),
    Compressed(OTHER, N, D, K),
    Compressed(OTHER, 60, D, K, encoder="mp_refit", basis="reflections8"),
    Compressed(OTHER, 60, M, K),
    Compressed(OTHER, N, D, K, encoder="mp_refit", support="drawn"),
    FewBits(Compressed(OTHER, N, M, K), 4, rounded_from=0.0),
    FewBits(Compressed(OTHER, 60, D, K, encoder="batch_topk"), 2, rounded_from=0.0),
    Compressed(OTHER, 60, M, K, encoder="own"),
    FewBits(Compressed(OTHER, 60, M, K, encoder="own"), 4, rounded_from=0.0),
    FewBits(Compressed(BATCHED, N, M, K, encoder="own"), 1.58, rounded_from=0.0, encoder_bits=2),
    Quantised(Compressed(THRESHOLDS, 60, M, K, encoder="own"), 8),
    FewBits(DenseWarmTied(N, K), 4, encoder_bits=2),
    FewBits(DenseRandInit(N, K, encoder="batch_topk"), 1.58, rounded_in="fourier", encoder_bits=8),
    Quantised(DenseRandInit(N, K), 4),
    Quantised(DenseRandInit(N, K), 16, encoder_bits=5),
    FewBits(DenseTied(N, K), 6),
    FewBits(Expander(N, D, K, encoder="mp_refit"), 3),
    Quantised(DenseMatchedOwn(N, D, K), 2, encoder_bits=8),
    Quantised(Prefix(DenseWarmTied(N, K), "1/2"), 2, encoder_bits=8),
    ProductQuantised(DenseTied(N, K), 4),
    ProductQuantised(DenseTied(N, K, encoder="mp_refit"), 2),
    ProductQuantised(DenseMatched(N, D, K), 1),
    ProductQuantised(DenseTied(N, K, "batch_topk"), 2),
    ProductQuantised(DenseTied(N, K, "batch_topk"), 2, rounded_in="fourier"),
    ProductQuantised(DenseTied(N, K, "mp_refit"), 1, rounded_in="fourier"),
    ProductQuantised(DenseMatched(N, D, K), 4, rounded_in="fourier", pieces="weighted"),
    TrellisCoded(DenseTied(N, K), 2),
    TrellisCoded(DenseMatched(N, D, K, "batch_topk"), 1, rounded_in="neurons", path="weighted"),
]
PLAIN = [arm for arm in ARMS if isinstance(arm, SparseArm) and not arm.prefixes]
SPARSE = [arm for arm in PLAIN if arm.encoder in ("topk", "mp_refit")]
STRUCTURED = ("monarch", "monarch_trained", "butterfly", "butterfly_trained")
IN_BASES = [
    *(replace(arm, basis=basis) for arm in SPARSE for basis in ("reflections3", "reflections3_trained", "fourier")),
    *(replace(arm, basis="reflections3", always_on=2) for arm in SPARSE),
    *(Expander(N, D, K, encoder, basis) for encoder in ("topk", "mp_refit") for basis in STRUCTURED),
    Dynamic(N, D, K, basis="butterfly_trained", always_on=2),
    FrozenRandom(N, D, K, basis="monarch"),
    Expander(N, D, K, always_on=3),
    DenseMatched(N, D, K, basis="reflections3"),
    DenseMatched(N, D, K, basis="reflections3", match="bytes"),
    Expander(N, D, K, "batch_topk", "reflections3", always_on=2),
    Expander(N, D, K, "batch_topk", "reflections3", always_on=2, prefixes=("1/4",)),
    Expander(N, D, K, "mp_refit", "reflections3", always_on=2, prefixes=("1/4",)),
    Prefix(Expander(N, D, K, basis="reflections3", always_on=2), "1/2"),
    DenseMatched(N, D, K, basis="monarch"),
    Quantised(Expander(N, D, K, basis="reflections3"), 4),
    Quantised(Dynamic(N, D, K, basis="reflections3_trained", encoder="mp_refit"), 8),
    Quantised(PrunedRetuned(N, D, K, basis="fourier"), 8),
    Quantised(Dynamic(N, D, K, basis="reflections3", always_on=2), 8),
    Quantised(Expander(N, D, K, basis="monarch"), 8),
    Quantised(Expander(N, D, K, basis="butterfly_trained"), 4),
    Quantised(Dynamic(N, D, K, basis="reflections3"), 1.58),
    FewBits(Dynamic(N, D, K, basis="reflections3", always_on=2), 2),
    FewBits(Expander(N, D, K, basis="reflections3_trained"), 1.58),
    FewBits(PrunedRetuned(N, D, K, basis="fourier"), 2),
]
ARMS += IN_BASES


def smaller(arm) -> Compressed | None:
    """Return the arm that makes an SAE smaller, which is there already; None where the arm makes a new one."""
    return next((each for each in (arm, getattr(arm, "of", None)) if isinstance(each, Compressed)), None)


by_name = pytest.mark.parametrize("arm", ARMS, ids=lambda arm: f"{arm.label}:{arm.sizes(M).degree}")


def batch(tokens=64):
    """Random activations (tokens, M)."""
    return torch.randn(tokens, M, generator=torch.Generator().manual_seed(1)) * 3


def ended(arm, d_in=M, scale=1.0):
    """An SAE of the arm as its training leaves it: one whose values are rounded in training holds whole numbers."""
    sae = arm.build(d_in, seed=3, scale=scale)
    if arm.rounding is not None:
        keep_rounded(sae, arm.rounding.bits, arm.rounding.encoder_bits)
    return sae


@by_name
def test_an_arm_builds_the_sizes_it_says(arm):
    sae, sizes = arm.build(M, seed=0), arm.sizes(M)
    assert (sae.dictionary.n_latents, sae.dictionary.degree, sae.k) == sizes
    width = min(BatchTopK.WIDTH * K, sizes.n_latents) if isinstance(sae.encoder, BatchTopK) else sizes.k
    out, used = sae(batch()), width + sae.dictionary.always_on
    if isinstance(sae.encoder, JumpReLU):  # as wide as the token of the most latents
        used = max(K, int((out.codes != 0).sum(1).max()))
    assert out.reconstruction.shape == (64, M) and out.codes.shape == out.indices.shape == (64, used)
    assert int(out.indices.max()) < sae.n_latents


@by_name
def test_a_seed_always_builds_the_same_sae_and_another_seed_another(arm):
    first, again, other = (arm.build(M, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    values = [arm.build(M, seed=s).dictionary.values for s in (0, 0, 1)]
    found = smaller(arm)
    from_a_file = found is not None and found.degree < M and found.basis == "neurons"  # else a seed draws it
    from_a_file = from_a_file and not arm.draws_support
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2]) == from_a_file
    learned = bool({"dictionary.values", "dictionary.codebook"} & set(other))
    assert learned != isinstance(arm.of if isinstance(arm, Prefix) else arm, FrozenRandom)


@by_name
def test_the_residual_is_the_input_less_the_reconstruction_in_scaled_units(arm):
    sae, h = arm.build(M, seed=0, scale=0.3), batch()
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(sae.residual(h).residual, 0.3 * (h - sae(h).reconstruction), rtol=1e-4, atol=1e-5)
        for dtype in (torch.float16, torch.bfloat16):  # the dtypes of cached activations
            low = h.to(dtype)
            assert torch.equal(sae.residual(low).residual, sae.residual(low.float()).residual)


@by_name
def test_fast_kernels_give_every_parameter_and_the_input_the_gradient_of_the_reference(arm):
    gradients = []
    for backend in ("reference", "auto"):
        sae, h = arm.build(M, seed=0, scale=0.3).double(), batch().double().requires_grad_()
        sae.backend = backend
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.1
        matryoshka_loss(sae.residual(h)).backward()
        gradients.append({"h": h.grad, **{name: p.grad for name, p in sae.named_parameters() if p.requires_grad}})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def least_progress(arm):
    """The share of the first loss that the last one of 60 steps is below."""
    # Random atoms and paths stay as they are, so that biases alone learn; those of low rank leave many dimensions out.
    if isinstance(arm, (FrozenRandom, TrellisCoded)) or (isinstance(arm, DenseLowRank) and arm.rank < M):
        return 0.97
    return 0.8 if isinstance(arm, FewBits) and arm.bits < 2 else 0.65  # atoms of signs and zeros can follow less


@by_name
def test_every_parameter_gets_a_gradient_and_training_lowers_the_loss(arm):
    sae, h = arm.build(M, seed=0), batch()
    if not arm.by_gradient:
        pytest.skip("its parameters are not found by gradient")
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = matryoshka_loss(sae.residual(h))
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            moved = [p for p in sae.parameters() if p.requires_grad]
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in moved)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < max(least_progress(arm), 0.8 if sae.prefixes else 0) * losses[0]  # few latents leave much


@by_name
def test_an_input_times_4_and_a_scale_over_4_give_an_output_times_4(arm):
    h = batch()
    plain, scaled = arm.build(M, 0, scale=1.0), arm.build(M, 0, scale=0.25)
    if isinstance(plain.encoder, JumpReLU):
        pytest.skip("the thresholds of an SAE that is there already are of activations as they are")
    torch.testing.assert_close(scaled(4 * h).reconstruction, 4 * plain(h).reconstruction)


@by_name
def test_a_loaded_sae_is_bit_identical_and_its_file_holds_what_is_counted(arm, tmp_path):
    sae = ended(arm, scale=0.7)
    h = batch()
    sae.train()
    sae.residual(h)  # where the encoder is BatchTopK, its threshold is that of this batch
    sae.eval()
    n_bytes = io.save(sae, tmp_path)
    assert n_bytes == (tmp_path / "sae.safetensors").stat().st_size
    loaded = io.load(tmp_path)
    assert torch.equal(sae(h).reconstruction, loaded(h).reconstruction)
    storage = count_storage(sae)
    header = int.from_bytes((tmp_path / "sae.safetensors").read_bytes()[:8], "little") + 8
    explicit_indices = 0 if storage.index_bits <= 64 else -(-storage.index_bits // 8)
    bits = storage.value_bits * (storage.learned_decoder_values - storage.basis_values)
    values = math.ceil(round(bits, 6) / 8)  # a codebook's share of a value's bits is no whole number
    values += -(-storage.basis_values * storage.basis_bits // 8) + -(-storage.source_bits // 8)
    others = storage.learned_parameters - storage.learned_decoder_values
    if storage.encoder_bits not in (0, 32):
        weights = sae.dictionary.n_latents * M
        values, others = values + math.ceil(round(storage.encoder_bits * weights, 6) / 8), others - weights
    assert n_bytes - header == values + 4 * others + explicit_indices
    assert loaded.dictionary.value_bits == sae.dictionary.value_bits
    assert loaded.dictionary.basis.name == sae.dictionary.basis.name
    assert loaded.dictionary.basis.value_bits == sae.dictionary.basis.value_bits


@pytest.mark.parametrize(
    "arm, d_in",
    [(arm, d_in) for d_in in (M, 27) for arm in ARMS if d_in == M or smaller(arm) is None],
    ids=lambda part: f"{part.label}:{part.sizes(M).degree}" if isinstance(part, Arm) else str(part),
)
def test_storage_is_known_to_the_byte_before_anything_is_built(arm, d_in, tmp_path):
    sae, layout = ended(arm, d_in), arm.layout(d_in)
    assert planned_counts(layout) == count_storage(sae) and planned_bytes(layout) == io.save(sae, tmp_path)
    assert (layout.n_latents, layout.degree) == arm.sizes(d_in)[:2]


def test_storage_of_a_large_sae_is_known_without_drawing_its_support():
    layout = ExpanderBalanced(1 << 20, 102, 32).layout(1 << 16)
    assert planned_counts(layout).learned_decoder_values == 102 << 20 and planned_bytes(layout) > 4 * 102 << 20


def test_learned_values_and_index_bits_are_counted_as_in_the_paper():
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
    assert counts["expander-1.58bit"].value_bits == 1.6 and counts["expander-1bit"].value_bits == 1
    assert {arm: counts[arm].index_bits for arm in ("expander_balanced", "clustered", "banded", "frozen_random")} == (
        dict.fromkeys(("expander_balanced", "clustered", "banded", "frozen_random"), 64)
    )
    ranks = N * math.ceil(math.log2(math.comb(M, D)))
    assert counts["dynamic"].index_bits == counts["pruned_retuned"].index_bits == ranks


def test_the_values_of_a_basis_are_counted_with_those_of_the_atoms():
    counts = {arm.label: count_storage(arm.build(M, 0)) for arm in ARMS}
    plain, reflected = counts["expander"], counts["expander@reflections3"]
    assert reflected.learned_decoder_values == plain.learned_decoder_values + 3 * M == D * N + 3 * M
    assert (reflected.basis_values, reflected.basis_bits, plain.basis_values, plain.basis_bits) == (3 * M, 32, 0, 0)
    assert reflected.learned_parameters == plain.learned_parameters + 3 * M
    assert reflected.compression == pytest.approx(M * N / (D * N + 3 * M))
    assert counts["expander@fourier"] == plain == counts["expander@neurons_on3"]
    frozen = counts["frozen_random@reflections3"]
    assert (frozen.learned_decoder_values, frozen.value_bits, frozen.basis_bits) == (3 * M, 0, 32)
    monarch, butterfly = counts["expander@monarch"], counts["expander@butterfly_trained"]
    assert (monarch.basis_values, butterfly.basis_values) == (M * (4 + 6 - 2) // 2, 2 * 5 * M // 2)
    rounded = counts["expander@reflections3-4bit"]
    assert (rounded.value_bits, rounded.basis_bits) == (4, 8)
    matched = counts["dense_matched@reflections3"].learned_decoder_values
    assert matched == counts["dense_matched"].learned_decoder_values + 3 * M == reflected.learned_decoder_values
