"""A damaged file is one kind of error, said before anything is computed with it."""

from __future__ import annotations

import json

import pytest
import torch

from sae_core import io
from sae_core.arms import DenseWarmTied, Expander


def edited(folder, **changes):
    file = folder / "cfg.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "remove"}))


@pytest.mark.parametrize("change", [
    {"d_in": "remove"}, {"k": 1.5}, {"k": "4"}, {"scale": "x"}, {"sparse": False}, {"tied": "remove"},
    {"n_latents": 10**12}, {"degree": 4}, {"support_seed": None}, {"support_seed": "a"}, {"support_seed": 1},
    {"support_sha256": "remove"}, {"format": 2}, {"tied": False}, {"d_in": 17},
])  # fmt: skip
def test_a_config_that_does_not_fit_its_tensors(tmp_path, change):
    io.save(Expander(64, 3, 4).build(16, seed=0), tmp_path)
    edited(tmp_path, **change)
    with pytest.raises(io.SAEFileError, match=str(tmp_path)):
        io.load(tmp_path)


@pytest.mark.parametrize("file, content", [
    ("cfg.json", b"[]"), ("cfg.json", b"null"), ("cfg.json", b"\xff\xfe"), ("cfg.json", b"{"),
    ("sae.safetensors", b""), ("sae.safetensors", b"torn"),
])  # fmt: skip
def test_a_torn_file(tmp_path, file, content):
    io.save(DenseWarmTied(64, 4).build(16, seed=0), tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(io.SAEFileError):
        io.load(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(io.SAEFileError, match="no readable SAE"):
        io.load(tmp_path / "none")


@pytest.mark.parametrize("shape", [(16,), (2, 5, 16), (5, 15)])
def test_activations_of_the_wrong_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"must be \(tokens, 16\)"):
        Expander(64, 3, 4).build(16, seed=0)(torch.zeros(shape))


def test_a_pursuit_comes_back_and_a_reading_is_not_saved(tmp_path):
    from sae_core.inference import infer_by

    sae = Expander(64, 5, 4, encoder="block2").build(16, seed=0)
    h = torch.randn(20, 16)
    io.save(sae, tmp_path)
    again = io.load(tmp_path)
    assert torch.equal(again(h).reconstruction, sae(h).reconstruction) and again.encoder.name == "gomp2"
    with pytest.raises(ValueError, match="reading of an SAE by refit"):
        io.save(infer_by(sae, "refit"), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "pursuit": "magic"}))
    with pytest.raises(io.SAEFileError, match="pursuit=magic"):
        io.load(tmp_path)
