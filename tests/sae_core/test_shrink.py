"""Which latents of an SAE are of use, and what is kept of them."""

from __future__ import annotations

import pytest
import torch

from sae_core import io
from sae_core.arms import CellError, Compressed, DenseRandInit, DenseTied, Expander, FewBits, Imported, Kron
from sae_core.correlation import code_matrix
from sae_core.encoders import inner_encoder
from sae_core.formats import export
from sae_core.shrink import Use
from sae_core.storage import count_storage
from tests.contracts.test_arms import K, M, N
from tests.sae_core.formats.cases import activations, trained


def saved(folder, sae):
    """Save an SAE of ours, and return the arm that reads it."""
    io.save(sae, folder)
    return Imported(K, str(folder))


def test_those_that_fire_most_are_kept_in_their_own_order_and_duplicates_last():
    use = Use(torch.tensor([5, 0, 9, 7, 1]), torch.tensor([False, False, False, True, False]))
    assert use.useful == 3
    assert use.kept(3).tolist() == [0, 2, 4] and use.kept(4).tolist() == [0, 1, 2, 4]


def test_latents_that_never_fire_and_duplicates_are_of_no_use(tmp_path):
    sae = trained(DenseTied(N, K))
    with torch.no_grad():
        sae.encoder.b_enc[7] = -1e6  # never fires
        sae.dictionary.values[20] = 2 * sae.dictionary.values[11]  # the same atom
        sae.encoder.b_enc[20] = sae.encoder.b_enc[11] + 0.1  # which fires whenever the other one does
    h = activations()
    arm = Compressed(saved(tmp_path, sae), N, M, K)
    use = arm.latent_use(0.7, h)
    codes, indices = sae.encode(h)
    fired = torch.bincount(indices[codes != 0], minlength=N)
    assert torch.equal(use.fired, fired) and use.fired[7] == 0
    assert use.duplicate.nonzero().flatten().tolist() == [11 if fired[20] > fired[11] else 20]
    assert use.useful == int((fired > 0).sum()) - 1


def test_with_all_values_kept_it_is_the_same_sae_written_otherwise(tmp_path):
    sae, h = trained(DenseTied(N, K)), activations()
    other = Compressed(saved(tmp_path, sae), N, M, K).build(M, 0, scale=2.0)  # not the SAE's own scale
    found, expected = other(h), sae(h)
    assert torch.equal(found.indices.sort(1).values, expected.indices.sort(1).values)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [0.7, 2.0])
@pytest.mark.parametrize("form", ["ours", "batch_topk", "topk of SAELens", "thresholds of SAELens"])
def test_an_own_encoder_with_all_bits_kept_has_the_codes_that_it_had(tmp_path, form, scale):
    topk = DenseRandInit(N, K, encoder="topk" if "topk of" in form or form == "ours" else "batch_topk")
    sae, h = trained(topk), activations()
    if "SAELens" in form:
        export(sae, "saelens", tmp_path)
    else:
        io.save(sae, tmp_path)
    arm = Compressed(Imported(K, str(tmp_path)), N, M, K, encoder="own")
    other, source = arm.build(M, 0, scale=scale).eval(), arm.of.build(M, 0, scale=scale)
    assert type(other.encoder) is type(source.encoder) and str(other.dictionary.basis.name) == "fourier"
    found, expected = other(h), source(h)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction, rtol=1e-4, atol=1e-4)
    ratio = scale / float(source.scale)  # codes are in scaled units
    before, after = (code_matrix(out.codes, out.indices, N).toarray() for out in (expected, found))
    assert abs(before * ratio - after).max() < 1e-4 * abs(after).max()


def test_an_own_encoder_keeps_the_rows_of_the_latents_that_are_kept(tmp_path):
    sae, h = trained(DenseRandInit(N, K)), activations()
    export(sae, "saelens", tmp_path)
    arm = Compressed(Imported(K, str(tmp_path)), 60, M, K, encoder="own")
    kept, other = arm.kept_latents(1.0, h), arm.build(M, 0, sample=h)
    assert kept.tolist() != list(range(60))
    source = arm.of.build(M, 0)
    rows = other.dictionary.basis.out_of(inner_encoder(other.encoder).rows())
    torch.testing.assert_close(rows, inner_encoder(source.encoder).rows()[kept])
    assert torch.equal(other.encoder.gain, source.encoder.gain[kept])
    assert torch.equal(inner_encoder(other.encoder).b_enc, inner_encoder(source.encoder).b_enc[kept])


def test_an_own_encoder_is_for_dense_atoms_and_an_sae_that_has_one(tmp_path):
    with pytest.raises(CellError, match="sae.encoder=own is for an SAE whose encoder has a row of weights for each"):
        Compressed(saved(tmp_path / "tied", trained(DenseTied(N, K))), N, M, K, encoder="own")
    with pytest.raises(CellError, match="which that of sae.path="):
        Compressed(saved(tmp_path / "kron", trained(Kron(N, K))), N, M, K, encoder="own")
    arm = Compressed(saved(tmp_path / "own", trained(DenseRandInit(N, K))), N, 5, K, encoder="own")
    with pytest.raises(CellError, match="sae.encoder=own goes with dense atoms, of d=24 values"):
        arm.sizes(M)


def test_atoms_are_the_largest_magnitudes_of_the_latents_that_are_kept(tmp_path):
    sae, h = trained(DenseRandInit(N, K)), activations()
    export(sae, "saelens", tmp_path)
    arm = Compressed(Imported(K, str(tmp_path)), 60, 5, K)
    assert arm.sample_tokens == Compressed.SAMPLE
    kept, other = arm.kept_latents(1.0, h), arm.build(M, 0, sample=h)
    assert len(kept) == 60 and bool((kept[1:] > kept[:-1]).all())
    atoms = sae.dictionary.dense_atoms()[kept]
    largest = atoms.abs().topk(5, dim=1).indices.sort(1).values
    assert torch.equal(other.dictionary.support, largest)
    wanted = torch.nn.functional.normalize(atoms.gather(1, largest), dim=1)
    torch.testing.assert_close(other.dictionary.unit_values(), wanted)


def test_a_drawn_support_keeps_what_the_atoms_have_there_and_stores_a_seed(tmp_path):
    sae = trained(DenseTied(N, K))
    arm = Compressed(saved(tmp_path, sae), N, 5, K, support="drawn")
    other = arm.build(M, 3)
    assert torch.equal(other.dictionary.support, Expander(N, 5, K).build(M, 3).dictionary.support)
    wanted = torch.nn.functional.normalize(sae.dictionary.dense_atoms().gather(1, other.dictionary.support), dim=1)
    torch.testing.assert_close(other.dictionary.unit_values(), wanted)
    assert count_storage(other).index_bits == 64


def test_an_arm_of_few_bits_keeps_what_the_arm_inside_keeps(tmp_path):
    inner = Compressed(saved(tmp_path, trained(DenseTied(N, K))), 60, 5, K)
    arm, h = FewBits(inner, 4, rounded_from=0.0), activations()
    assert arm.sample_tokens == inner.sample_tokens
    plain, few = (each.build(M, 0, sample=h).dictionary for each in (inner, arm))
    assert torch.equal(plain.support, few.support) and few.rounded_to is not None
