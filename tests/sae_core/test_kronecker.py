"""KronSAE's encoder computes its definition, few rows stand for many latents, and files hold them."""

from __future__ import annotations

import json

import pytest
import torch

from sae_core import io
from sae_core.arms import CellError, DenseTied, DenseWarmTied, Kron
from sae_core.inference import infer_by, multiply_adds
from sae_core.kronecker import Heads, KroneckerTopK
from sae_core.prefixes import cut
from sae_core.storage import count_storage

M, N, K = 20, 96, 5
HEADS = [Heads(2, 4), Heads(4, 3), Heads(1, 1), Heads(1, 96)]


def encoder_of(heads, dtype=torch.float64):
    made = KroneckerTopK(M, N, heads, torch.Generator().manual_seed(1)).to(dtype)
    torch.nn.init.normal_(made.b_enc, std=0.01, generator=torch.Generator().manual_seed(2))
    return made


def activations(tokens=30):
    return torch.randn(tokens, M, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def by_definition(encoder, x):
    """Equations 2 to 4 of the paper with torch's own Kronecker product, head by head: (tokens, n)."""
    base, extension = encoder.heads
    active = torch.relu(x @ encoder.weight.T + encoder.b_enc)
    found = []
    for rows in active.split(base + extension, dim=1):
        found.append(torch.stack([torch.kron(row[:base], row[base:]) for row in rows]))
    product = torch.cat(found, 1)
    return torch.where(product > 0, (product + 1e-5).sqrt(), 0.0)


@pytest.mark.parametrize("heads", HEADS)
def test_codes_are_the_largest_of_the_kronecker_products(heads, monkeypatch):
    encoder, x = encoder_of(heads), activations()
    expected = by_definition(encoder, x)
    for chunk in (1 << 24, 1):  # all tokens at once, and one by one
        monkeypatch.setattr("sae_core.kronecker._CHUNK_VALUES", chunk)
        codes, indices = encoder(x, None, None, K, None)
        torch.testing.assert_close(codes.sort(1).values, expected.topk(K, 1).values.sort(1).values)
        torch.testing.assert_close(codes, expected.gather(1, indices))


def test_a_latent_fires_only_where_both_of_its_parts_are_active():
    encoder, x = encoder_of(Heads(2, 4)), activations(200)
    codes, indices = encoder(x, None, None, K, None)
    active = (x @ encoder.weight.T + encoder.b_enc > 0).unflatten(1, (-1, 6))
    head, i, j = indices // 8, indices % 8 // 4, indices % 4
    rows = torch.arange(len(x))[:, None]
    assert torch.equal(codes > 0, active[rows, head, i] & active[rows, head, 2 + j])


def test_gradients_reach_the_rows_behind_the_latents_picked_and_no_others():
    encoder, x = encoder_of(Heads(2, 4)), activations(3)
    assert torch.autograd.gradcheck(lambda x: encoder(x, None, None, K, None)[0], x.requires_grad_())
    codes, indices = encoder(x.detach(), None, None, K, None)
    codes.sum().backward()
    picked = indices[codes > 0]
    behind = set((picked // 8 * 6 + picked % 8 // 4).tolist()) | set((picked // 8 * 6 + 2 + picked % 4).tolist())
    assert set(encoder.weight.grad.abs().sum(1).nonzero().flatten().tolist()) == behind
    assert bool(torch.isfinite(encoder.weight.grad).all())


def test_atoms_start_at_the_sum_of_the_two_rows_behind_their_latent():
    sae = Kron(N, K, base=2, extension=4).build(M, seed=0)
    rows = sae.encoder.weight
    for latent in (0, 7, 13, 95):
        head, i, j = latent // 8, latent % 8 // 4, latent % 4
        expected = torch.nn.functional.normalize(rows[6 * head + i] + rows[6 * head + 2 + j], dim=0)
        torch.testing.assert_close(sae.dictionary.values[latent], expected)


def test_the_encoder_stores_and_costs_as_many_rows_as_it_has():
    kron, own = Kron(N, K, base=4, extension=8).build(M, seed=0), DenseWarmTied(N, K).build(M, seed=0)
    rows = N // 32 * 12
    assert count_storage(kron).learned_parameters == M * N + rows * (M + 1) + M
    assert multiply_adds(kron) == rows * M + N < multiply_adds(own) == N * M
    assert multiply_adds(infer_by(kron, "refit")) > multiply_adds(kron)
    assert not kron.tied


def test_a_file_holds_the_sizes_of_a_head(tmp_path):
    sae = Kron(N, K, base=4, extension=3, encoder="batch_topk").build(M, seed=0)
    sae.encoder.threshold.fill_(0.1)
    io.save(sae, tmp_path)
    config = json.loads((tmp_path / io.CONFIG_FILE).read_text())
    assert config["format"] == 7 and config["heads"] == [4, 3]
    h = torch.randn(40, M)
    assert torch.equal(io.load(tmp_path)(h).reconstruction, sae.eval()(h).reconstruction)


@pytest.mark.parametrize("heads", [[4], [5, 4], [0, 3], "4,3", None, [4, 3.0]])
def test_a_file_with_other_heads_is_an_error(heads, tmp_path):
    io.save(Kron(N, K, base=4, extension=3).build(M, seed=0), tmp_path)
    config = json.loads((tmp_path / io.CONFIG_FILE).read_text())
    (tmp_path / io.CONFIG_FILE).write_text(json.dumps({**config, "heads": heads}))
    with pytest.raises(io.SAEFileError, match=str(tmp_path)):
        io.load(tmp_path)


def test_heads_in_a_file_of_another_format_are_an_error(tmp_path):
    io.save(DenseTied(N, K).build(M, seed=0), tmp_path)
    config = json.loads((tmp_path / io.CONFIG_FILE).read_text())
    (tmp_path / io.CONFIG_FILE).write_text(json.dumps({**config, "heads": [4, 3]}))
    with pytest.raises(io.SAEFileError, match="heads="):
        io.load(tmp_path)


def test_sizes_that_make_no_heads_are_errors():
    with pytest.raises(CellError, match="sae.base\\*sae.extension=35 must divide n=96"):
        Kron(N, K, base=5, extension=7).sizes(M)
    with pytest.raises(ValueError, match="sae.base=0 must be at least 1"):
        Kron(N, K, base=0)
    with pytest.raises(ValueError, match="sae.encoder=mp_refit must be topk or batch_topk"):
        Kron(N, K, encoder="mp_refit")


def test_an_sae_whose_latents_share_rows_cannot_be_cut():
    with pytest.raises(ValueError, match="share the encoder's rows"):
        cut(Kron(N, K).build(M, seed=0), 40)
