"""An SAE read block by block: its codes are those of the whole, and no more than a block is in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_core import io
from sae_core.arms import DenseRandInit, Expander, Imported
from sae_core.correlation import code_matrix
from sae_core.formats import blocks, codes_of, export, load
from tests.contracts.test_arms import K, M, N
from tests.sae_core.formats.cases import ABOUT, activations, trained
from tests.sae_core.formats.test_reading import saelens

SIZE = 19  # latents of a block, so that the last of 96 has fewer than k
BLOCK = 8 * M * SIZE  # bytes


def whole_and_parts(folder, h):
    """The codes of the whole SAE, and those of its blocks, as two sparse matrices."""
    arm, sae = Imported(K, str(folder)), load(folder)
    codes, indices = sae.encode(h)
    found = codes_of(blocks(arm.source, arm.header, K, block_bytes=BLOCK), arm.header, h)
    return code_matrix(codes, indices, sae.n_latents), found


def assert_alike(whole, found):
    assert whole.nnz and np.abs((whole - found).toarray()).max() < 1e-5 * np.abs(whole.toarray()).max()


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk", "gated"])
def test_codes_of_blocks_are_those_of_the_whole(architecture, tmp_path):
    whole, found = whole_and_parts(saelens(tmp_path, architecture), activations())
    assert_alike(whole, found)


@pytest.mark.parametrize("library", ["saelens", "sparsify", "dictionary_learning"])
@pytest.mark.parametrize("encoder", ["topk", "batch_topk"])
def test_every_format_is_read_in_blocks(library, encoder, tmp_path):
    if (library, encoder) == ("sparsify", "batch_topk"):
        pytest.skip("sparsify reads codes by TopK alone")
    export(trained(DenseRandInit(N, K, encoder)), library, tmp_path, ABOUT)
    whole, found = whole_and_parts(tmp_path, activations())
    assert_alike(whole, found)


def test_a_block_has_its_own_latents_alone(tmp_path):
    arm = Imported(K, str(saelens(tmp_path, "jumprelu")))
    parts, sae = list(blocks(arm.source, arm.header, K, block_bytes=BLOCK)), load(tmp_path)
    assert [part.first for part in parts] == list(range(0, N, SIZE))
    assert sum(part.sae.n_latents for part in parts) == N and parts[-1].sae.n_latents == N % SIZE < K
    for first, part in parts:
        rows = slice(first, first + part.n_latents)
        assert torch.equal(part.dictionary.dense_atoms(), sae.dictionary.dense_atoms(rows))


def test_a_file_of_ours_is_one_block(tmp_path):
    io.save(trained(Expander(N, 5, K)), tmp_path)
    arm = Imported(K, str(tmp_path))
    (part,) = blocks(arm.source, arm.header, K, block_bytes=BLOCK)
    assert part.first == 0 and part.sae.n_latents == N
