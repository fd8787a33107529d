"""Packed atoms compute what float ones do, take the memory of their file, and cannot be trained or saved."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core import io, pack
from sae_core.arms import (
    PCA,
    DenseRandInit,
    DenseTied,
    DenseWarmTied,
    Dynamic,
    Expander,
    FrozenRandom,
    ProductQuantised,
    Quantised,
    TrellisCoded,
)
from sae_core.encoders import JumpReLU, PositiveTopK, Refitted, inner_encoder
from sae_core.inference import infer_by, multiply_adds
from sae_core.kernels import on_packed
from sae_core.packed import PackedDictionary, PackedTopK, is_packed
from sae_core.packing import align_rows, byte_table, pack_rows, pack_values
from sae_core.prefixes import cut
from sae_core.rounding import GRIDS
from sae_core.storage import count_storage

BITS = {bits: grid.stored_bits for bits, grid in GRIDS.items() if bits <= 8}
M, N, K = 24, 90, 6
ARMS = [
    *(Quantised(DenseTied(N, K), bits) for bits in BITS),
    *(Quantised(Expander(N, 7, K), bits) for bits in BITS),
    Quantised(DenseTied(N, K, encoder="batch_topk"), 2, rounded_in="fourier"),
    Quantised(Expander(N, 5, K, encoder="mp_refit"), 2),
    Quantised(Expander(N, 5, K, encoder="nested_floor5"), 4),
    Quantised(Dynamic(N, 11, K, basis="reflections3", always_on=2), 1.58),  # no two atoms alike
    Quantised(Dynamic(N, 11, K, encoder="batch_topk"), 4),
    ProductQuantised(DenseTied(N, K), 2),
    *(TrellisCoded(DenseTied(N, K), bits) for bits in (4, 1)),
    TrellisCoded(DenseTied(N, K, encoder="batch_topk"), 2, rounded_in="neurons", path="weighted"),
    Quantised(DenseRandInit(N, K), 4, encoder_bits=3),
    Quantised(DenseWarmTied(N, K, encoder="batch_topk"), 16, encoder_bits=1.58, rounded_in="fourier"),
]
NOT_ATOMS = ARMS[-1]  # whose atoms are of 16 bits, which are floats in memory


def derived(arm):
    sae = arm.derive(arm.of.build(M, seed=1), seed=2)
    sae.b_dec.data.normal_()
    if hasattr(sae.encoder, "threshold"):
        sae.encoder.threshold.fill_(1.2)  # so that fewer atoms fire than there are dimensions
    return sae.eval()


def activations(tokens=40):
    return torch.randn(tokens, M, generator=torch.Generator().manual_seed(3))


def dense_codes(codes, indices):
    return codes.new_zeros(len(codes), N + 2).scatter_add(1, indices, codes)


def assert_same(found, expected):
    """The same latents with the same codes, and the same reconstruction, but for rounding."""
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[expected[0].dtype]
    torch.testing.assert_close(dense_codes(*found[1:]), dense_codes(*expected[1:]), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[0], expected[0], rtol=tolerance, atol=tolerance)


@pytest.fixture(params=[1 << 18, 7 * 20], ids=["one block", "blocks of few atoms"])
def block_values(request, monkeypatch):
    monkeypatch.setattr(on_packed, "_BLOCK_VALUES", request.param)
    monkeypatch.setattr(on_packed, "_PICKED_VALUES", request.param)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.label)
@torch.no_grad()
def test_packed_atoms_compute_what_float_ones_do(arm, block_values):
    sae, h = derived(arm).double(), activations().double()  # nearly dependent picks multiply the rounding of float32
    other = pack(sae)
    assert is_packed(other) and isinstance(other.dictionary, PackedDictionary) == (arm is not NOT_ATOMS)
    assert_same(other(h), sae(h))
    torch.testing.assert_close(other.residual(h).residual, sae.residual(h).residual, rtol=1e-5, atol=1e-5)
    for name in ("topk", "refit", "mp_refit", "omp", "cosamp", "mp_cg2"):
        assert_same(infer_by(other, name)(h), infer_by(sae, name)(h))


@pytest.mark.parametrize("backend", ["reference", "torch_gather"])
@torch.no_grad()
def test_packed_atoms_work_with_every_backend(backend, block_values):
    for arm in ARMS[4:7]:
        sae, h = derived(arm), activations()
        sae.backend = backend
        assert_same(pack(sae)(h), sae(h))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.label)
@torch.no_grad()
def test_a_file_is_loaded_packed_and_never_as_floats(arm, tmp_path, monkeypatch):
    sae, h = derived(arm), activations()
    io.save(sae, tmp_path)
    plain = io.load(tmp_path)
    made = []
    for kind, name in ((PackedDictionary, "values"), (PackedTopK, "weight")):
        monkeypatch.setattr(kind, name, property(lambda self: made.append(1)))
    other = io.load(tmp_path, keep_packed=True)
    assert is_packed(other) and isinstance(other.dictionary, PackedDictionary) == (arm is not NOT_ATOMS)
    expected, found = plain(h), other(h)
    assert_same(found, expected)
    assert not made
    monkeypatch.undo()
    assert count_storage(other) == count_storage(plain) and multiply_adds(other) == multiply_adds(plain)
    assert (other.dictionary.support is None) == (plain.dictionary.support is None)
    torch.testing.assert_close(other.dictionary.unit_values(), plain.dictionary.unit_values())
    torch.testing.assert_close(other.dictionary.dense_atoms(slice(3, 20)), plain.dictionary.dense_atoms(slice(3, 20)))


@pytest.mark.parametrize(
    "bits, share",
    [(8, 1 / 4), (6, 1 / 4), (5, 1 / 4), (4, 1 / 8), (3, 1 / 8), (2, 1 / 16), (1.58, 1.6 / 32), (1, 1 / 32)],
)
def test_packed_values_take_the_share_of_memory_that_their_bits_are(bits, share, tmp_path):
    arm = Quantised(DenseTied(200, 4), bits)
    io.save(arm.derive(arm.of.build(240, seed=0)), tmp_path)
    packed = io.load(tmp_path, keep_packed=True).dictionary.packed
    assert packed.dtype == torch.uint8 and packed.numel() == share * 4 * 200 * 240


def test_whole_numbers_of_16_bits_are_floats_in_memory(tmp_path):
    sae = derived(Quantised(DenseTied(N, K), 16))
    io.save(sae, tmp_path)
    assert torch.equal(io.load(tmp_path, keep_packed=True).dictionary.values, sae.dictionary.values)
    with pytest.raises(ValueError, match="whole numbers of 8 or fewer bits can be packed"):
        pack(sae)


def test_a_support_takes_two_bytes_a_row():
    sae = pack(derived(Quantised(Expander(N, 7, K), 2)))
    rows = sae.dictionary.compact_support
    assert rows is not None and rows.dtype == torch.int16 and torch.equal(rows.long(), sae.dictionary.support)


@pytest.mark.parametrize("stored_bits", BITS.values())
def test_rows_of_any_length_begin_with_a_byte_of_their_own(stored_bits):
    grid = next(grid for grid in GRIDS.values() if grid.stored_bits == stored_bits)
    for rows, columns in ((9001, 7), (3, 40), (1, 1), (4000, 3), (0, 5)):
        values = grid.nearest(torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * grid.largest)
        found = pack_rows(values, stored_bits)
        table = byte_table(stored_bits)
        assert torch.equal(align_rows(pack_values(values, stored_bits), stored_bits, (rows, columns)), found)
        assert torch.equal(on_packed.unpacked(found, table, columns), values)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.label)
@torch.no_grad()
def test_an_sae_goes_to_another_process_packed_or_not(arm):
    sae, h = derived(arm), activations()
    for each in (sae, pack(sae), infer_by(sae, "omp"), infer_by(pack(sae), "mp_cg2")):
        again = pickle.loads(pickle.dumps(each))
        assert torch.equal(again(h).reconstruction, each(h).reconstruction)


@pytest.mark.parametrize("kind", [JumpReLU, PositiveTopK, Refitted])
@torch.no_grad()
def test_an_encoder_around_packed_weights_fires_as_around_float_ones(kind, block_values, tmp_path):
    sae, h = Quantised(DenseRandInit(N, K), 8, encoder_bits=4).build(M, seed=0), activations()
    values = () if kind is Refitted else (torch.linspace(0.1, 1.2, N),)
    sae.encoder.b_enc.data.normal_()
    sae = sae.with_encoder(kind(sae.encoder, *values)).eval()
    packed = pack(sae)
    assert isinstance(packed.encoder, kind) and isinstance(packed.encoder.encoder, PackedTopK)
    assert isinstance(sae.encoder.encoder.weight, torch.nn.Parameter)  # the one that was packed is as before
    assert_same(packed(h), sae(h))
    assert packed.encode(h[:0])[0].shape[0] == 0
    if kind is not Refitted:
        io.save(sae, tmp_path)
        assert_same(io.load(tmp_path, keep_packed=True)(h), sae(h))


@torch.no_grad()
def test_an_input_has_the_same_gradient():
    sae = derived(ARMS[2])
    found, expected = activations(), activations()
    with torch.enable_grad():
        for each, h in ((pack(sae), found.requires_grad_()), (sae, expected.requires_grad_())):
            each(h).reconstruction.square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-4)


def test_packed_atoms_are_for_inference_alone(tmp_path):
    sae = pack(derived(ARMS[2]))
    assert pack(sae) is sae
    with pytest.raises(TypeError, match="cannot be trained: load the SAE without keep_packed=True"):
        sae.dictionary.set_atoms(torch.tensor([0]), torch.ones(1, M))
    with pytest.raises(ValueError, match="copy the file"):
        io.save(sae, tmp_path)
    with pytest.raises(ValueError, match="packed atoms cannot be cut"):
        cut(sae, N // 2)


def test_packed_weights_of_an_encoder_are_for_inference_alone(tmp_path):
    sae = pack(derived(NOT_ATOMS))
    assert pack(sae) is sae and inner_encoder(sae.encoder).packed.numel() == N * 5  # five numbers a byte, of 24
    with pytest.raises(TypeError, match="packed weights cannot be trained"):
        sae.encoder.set_rows(torch.tensor([0]), torch.ones(1, M))
    with pytest.raises(ValueError, match="copy the file"):
        io.save(sae, tmp_path)
    with pytest.raises(ValueError, match="packed atoms cannot be cut"):
        cut(sae, N // 2)


@pytest.mark.parametrize("arm", [Expander(N, 7, K), FrozenRandom(N, 7, K), PCA(N, 4)])
def test_values_of_32_bits_cannot_be_packed_and_are_loaded_as_ever(arm, tmp_path):
    sae = arm.build(M, seed=0)
    with pytest.raises(ValueError, match="whole numbers of 8 or fewer bits"):
        pack(sae)
    io.save(sae, tmp_path)
    assert type(io.load(tmp_path, keep_packed=True).dictionary) is type(sae.dictionary)


@pytest.mark.parametrize("arm, name", [(Quantised(DenseTied(N, K), 1.58), "values"), (NOT_ATOMS, "encoder_weight")])
def test_a_byte_that_no_digits_make_is_damage_in_a_packed_file_too(arm, name, tmp_path):
    io.save(arm.derive(arm.of.build(25, seed=0)), tmp_path)
    tensors = load_file(tmp_path / io.WEIGHTS_FILE)
    tensors[name][3] = 250
    save_file(tensors, tmp_path / io.WEIGHTS_FILE)
    with pytest.raises(io.SAEFileError, match="the values are damaged: a byte of 250"):
        io.load(tmp_path, keep_packed=True)
