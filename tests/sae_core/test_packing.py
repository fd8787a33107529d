"""Supports and whole numbers in bytes, held against arithmetic that does not know how they are packed."""

from __future__ import annotations

import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core import io
from sae_core.arms import Dynamic, Quantised
from sae_core.packing import pack_support, pack_values, packed_bytes, unpack_support, unpack_values
from sae_core.rounding import STORED_GRIDS
from sae_core.sizes import bits_per_atom
from sae_core.supports import expander_support


@pytest.mark.parametrize("d_in, degree", [(1, 1), (6, 1), (7, 3), (8, 4), (9, 8), (6, 6)])
def test_every_support_has_a_number_of_its_own_and_comes_back(d_in, degree):
    supports = torch.tensor(list(combinations(range(d_in), degree)))
    numbers = set()
    for support in supports.split(1):
        packed = pack_support(support, d_in)
        numbers.add(int.from_bytes(packed.numpy().tobytes(), "big") >> (-bits_per_atom(d_in, degree) % 8))
        assert torch.equal(unpack_support(packed, d_in, 1, degree), support)
    assert numbers == set(range(math.comb(d_in, degree)))
    assert torch.equal(unpack_support(pack_support(supports, d_in), d_in, len(supports), degree), supports)


@pytest.mark.parametrize("d_in, n, degree", [(256, 33, 7), (576, 20, 28), (2048, 9, 64), (300, 5, 299)])
def test_supports_of_more_bits_than_a_machine_word_come_back_in_the_bytes_that_are_counted(d_in, n, degree):
    support = expander_support(d_in, n, degree, seed=3)
    packed = pack_support(support, d_in)
    assert packed.dtype == torch.uint8 and len(packed) == math.ceil(n * bits_per_atom(d_in, degree) / 8)
    assert 2 ** (bits_per_atom(d_in, degree) - 1) < math.comb(d_in, degree) <= 2 ** bits_per_atom(d_in, degree)
    assert torch.equal(unpack_support(packed, d_in, n, degree), support)


@pytest.mark.parametrize("bits", [4, 8])
def test_whole_numbers_come_back(bits):
    values = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)).float().view(2, -1)
    packed = pack_values(values, bits)
    assert len(packed) == 2**bits * bits // 8
    assert torch.equal(unpack_values(packed, bits, tuple(values.shape)), values)


@pytest.mark.parametrize(
    "bits, values, expected",
    [
        (2, [-3, -1, 1, 3, 3], [0b00011011, 0b11000000]),
        (1, [-1, 1, 1, -1, 1, 1, 1, 1, 1], [0b01101111, 0b10000000]),
        (1.6, [1, 1, 1, 1, 1, -1, 0, 1, -1, -1, 0], [242, 0 * 81 + 1 * 27 + 2 * 9 + 0 + 0, 1 * 81]),
    ],
)
def test_numbers_of_few_bits_are_packed_as_is_written_and_come_back(bits, values, expected):
    packed = pack_values(torch.tensor(values).float(), bits)
    assert packed.dtype == torch.uint8 and packed.tolist() == expected
    assert len(packed) == packed_bytes(len(values), bits) == math.ceil(len(values) * bits / 8)
    assert unpack_values(packed, bits, (1, len(values))).tolist() == [values]


@pytest.mark.parametrize("bits", [8, 4, 2, 1.6, 1])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 1001])
def test_any_count_of_numbers_comes_back(bits, count):
    grid = STORED_GRIDS[bits]
    numbers = torch.arange(-grid.largest, grid.largest + 1, 2 if grid.odd else 1).float()
    values = numbers[torch.randint(len(numbers), (count,), generator=torch.Generator().manual_seed(0))]
    packed = pack_values(values, bits)
    assert len(packed) == packed_bytes(count, bits) and torch.equal(unpack_values(packed, bits, (count,)), values)


@pytest.mark.parametrize("arm", [Dynamic(64, 5, 4), Quantised(Dynamic(64, 5, 4, basis="reflections2"), 8)])
def test_files_that_hold_indices_are_read_as_before_there_were_ranks(arm, tmp_path):
    sae = arm.build(20, seed=1)
    io.save(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 3
    in_neurons = config["basis"]["name"] == "neurons"
    older = {key: value for key, value in config.items() if not (in_neurons and key in ("basis", "always_on"))}
    (tmp_path / "cfg.json").write_text(json.dumps({**older, "format": 1 if in_neurons else 2}))
    tensors = load_file(tmp_path / "sae.safetensors")
    digits = "".join(f"{row:05b}" for row in sae.dictionary.support.flatten().tolist())  # 20 rows: 5 bits an index
    digits += "0" * (-len(digits) % 8)
    whole = [int(digits[i : i + 8], 2) for i in range(0, len(digits), 8)]
    save_file({**tensors, "support": torch.tensor(whole, dtype=torch.uint8)}, tmp_path / "sae.safetensors")
    loaded = io.load(tmp_path)
    assert torch.equal(loaded.dictionary.support, sae.dictionary.support)
    h = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(h).reconstruction, sae(h).reconstruction)


def test_a_damaged_support_is_an_error(tmp_path):
    io.save(Dynamic(64, 5, 4).build(20, seed=1), tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    for support in (
        torch.from_numpy(np.full(len(tensors["support"]), 255, dtype=np.uint8)),  # ranks beyond the last set
        tensors["support"].flip(0),
        tensors["support"][:-1],
        tensors["support"].float(),
    ):
        save_file({**tensors, "support": support.contiguous()}, tmp_path / "sae.safetensors")
        with pytest.raises(io.SAEFileError, match=str(tmp_path)):
            io.load(tmp_path)
