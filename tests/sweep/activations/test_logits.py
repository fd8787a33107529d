"""The unchanged LM's logits on disk: read as they were made, made again where damaged, left where reading is slower."""

from __future__ import annotations

import time

import pytest
import torch

from sweep.activations.logits import KeptLogits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_are_read_as_they_were_made(tmp_path, dtype):
    logits, made = torch.randn(3, 5, 50).to(dtype), []

    def make():
        made.append(1)
        time.sleep(0.1)  # longer than reading takes
        return logits

    assert torch.equal(KeptLogits(tmp_path / "l").of(2, make), logits)
    again = KeptLogits(tmp_path / "l").of(2, make)
    assert torch.equal(again, logits) and again.dtype == dtype and made == [1]
    KeptLogits(tmp_path / "l").of(3, make)
    assert len(made) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_logits_are_made_again(tmp_path, damage):
    logits, kept = torch.randn(3, 5, 50), KeptLogits(tmp_path)
    kept.of(0, lambda: logits)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes({"flip": content, "cut": content[:-9], "empty": b""}[damage])
    other = torch.randn(3, 5, 50)
    assert torch.equal(KeptLogits(tmp_path).of(0, lambda: other), other)


def test_where_reading_takes_longer_than_making_the_rest_is_made(tmp_path):
    for batch in (0, 1):
        KeptLogits(tmp_path).of(batch, lambda: torch.zeros(1, 2, 3))  # made in no time
    kept, made = KeptLogits(tmp_path), []

    def make():
        made.append(1)
        return torch.zeros(1, 2, 3)

    kept.of(0, make)
    kept.of(1, make)
    assert made == [1]


def test_a_place_that_cannot_be_written_to_costs_nothing_but_the_memory(tmp_path):
    (tmp_path / "file").write_text("")
    logits = torch.randn(1, 2, 3)
    assert torch.equal(KeptLogits(tmp_path / "file" / "folder").of(0, lambda: logits), logits)
