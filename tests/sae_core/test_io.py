"""Saving and loading: every damaged file ends in one kind of error, before anything is computed with it."""

from __future__ import annotations

import json
import os
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core import io
from sae_core.arms import (
    DenseRandInit,
    DenseTied,
    DenseWarmTied,
    Dynamic,
    Expander,
    Kron,
    ProductQuantised,
    Quantised,
    TrellisCoded,
)
from sae_core.inference import infer_by


def edit_config(folder, **changes):
    file = folder / "cfg.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "remove"}))


WRONG_SETTINGS = [
    ("d_in", "remove"),
    ("d_in", 17),
    ("n_latents", 10**12),
    ("degree", 4),
    ("d_in", 0),
    ("n_latents", 0),
    ("degree", -1),
    ("k", 1.5),
    ("k", "4"),
    ("scale", "x"),
    ("sparse", False),
    ("tied", "remove"),
    ("tied", False),
    ("support_seed", None),
    ("support_seed", "remove"),
    ("support_seed", "a"),
    ("support_seed", 1),
    ("support_seed", -1),
    ("support_name", []),
    ("support_name", {}),
    ("support_sha256", "remove"),
    ("format", 2),
    ("k", 0),
    ("k", 65),
    ("scale", 0.0),
]


@pytest.mark.parametrize("key, value", WRONG_SETTINGS)
def test_a_config_that_does_not_fit_its_tensors_is_an_error_that_names_the_folder(tmp_path, key, value):
    io.save(Expander(64, 3, 4).build(16, seed=0), tmp_path)
    edit_config(tmp_path, **{key: value})
    with pytest.raises(io.SAEFileError, match=str(tmp_path)):
        io.load(tmp_path)


def in_a_basis(**changes):
    return {"name": "reflections3", "seed": None, "value_bits": 32, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 1, "always_on": 0},
        {"format": 4},
        {"format": 5},
        {"basis": "remove"},
        {"basis": "reflections3"},
        {"basis": in_a_basis(name="reflections4")},
        {"basis": in_a_basis(name="reflections17")},
        {"basis": in_a_basis(name="pca")},
        {"basis": in_a_basis(name="monarch")},
        {"basis": in_a_basis(name="butterfly")},
        {"basis": in_a_basis(name="fourier")},
        {"basis": in_a_basis(name=None)},
        {"basis": in_a_basis(value_bits=8)},
        {"basis": in_a_basis(value_bits=5)},
        {"basis": {}},
        {"always_on": "remove"},
        {"always_on": -1},
        {"always_on": 14},
        {"always_on": 1.0},
        {"always_on": 3},
    ],
)
def test_a_basis_that_does_not_fit_its_tensors_is_an_error(tmp_path, changes):
    sae = Expander(64, 3, 4, basis="reflections3", always_on=2).build(16, seed=0)
    io.save(sae, tmp_path)
    assert io.load(tmp_path).dictionary.always_on == 2
    edit_config(tmp_path, **changes)
    with pytest.raises(io.SAEFileError, match=str(tmp_path)):
        io.load(tmp_path)


def test_files_in_the_neurons_basis_are_those_of_versions_before_bases(tmp_path):
    io.save(Expander(64, 3, 4).build(16, seed=0), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 1 and not {"basis", "always_on"} & set(config)
    io.save(Expander(64, 3, 4, basis="fourier").build(16, seed=7), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 2 and config["basis"] == {"name": "fourier", "seed": 7, "value_bits": 32}


FEW = [Expander(64, 3, 4), DenseTied(64, 4, encoder="omp"), Dynamic(64, 3, 4, basis="reflections3", always_on=2)]


@pytest.mark.parametrize("bits", [3, 2, 1.58, 1])
@pytest.mark.parametrize("arm", FEW, ids=lambda arm: arm.label)
def test_only_files_of_fewer_than_4_bits_are_of_format_4(arm, bits, tmp_path):
    for more in (16, 6, 5, 4):
        io.save(Quantised(arm, more).build(16, seed=0), tmp_path)
        assert json.loads((tmp_path / "cfg.json").read_text())["format"] == (3 if arm is FEW[-1] else 1)
    sae = Quantised(arm, bits).build(16, seed=0)
    io.save(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 4 and config["value_bits"] == (1.6 if bits == 1.58 else bits)
    assert ("basis" in config) == (arm is FEW[-1])
    loaded, h = io.load(tmp_path), torch.randn(20, 16)
    assert torch.equal(loaded(h).reconstruction, sae(h).reconstruction)


@pytest.mark.parametrize(
    "changes",
    [
        {"value_bits": 2},
        {"value_bits": 1.58},
        {"value_bits": 3},
        {"value_bits": 4},
        {"value_bits": 7},
        {"value_bits": 16},
        {"value_bits": 32},
        {"value_bits": None},
        {"value_bits": [1.6]},
        {"format": 1},
        {"format": 3},
        {"frozen": True},
        {"basis": None},
    ],
)
def test_bits_that_do_not_fit_their_tensors_are_an_error_of_one_line(tmp_path, changes):
    io.save(Quantised(Expander(64, 3, 4), 1.58).build(16, seed=0), tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(io.SAEFileError, match=str(tmp_path)) as error:
        io.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arm", [ProductQuantised(DenseTied(64, 4), 2), TrellisCoded(DenseTied(64, 4), 2), Quantised(Dynamic(64, 3, 4), 2)]
)
@pytest.mark.parametrize("key", ["d_in", "n_latents", "degree", "k"])
def test_sizes_below_1_are_an_error_for_atoms_of_every_kind(tmp_path, arm, key):
    io.save(arm.build(16, seed=0), tmp_path)
    for size in (0, -1):
        edit_config(tmp_path, **{key: size})
        with pytest.raises(io.SAEFileError, match=f"{key}={size} must be a whole number, 1 at least"):
            io.load(tmp_path)


@pytest.mark.parametrize("keep_packed", [False, True])
@pytest.mark.parametrize("name", ["b_dec", "b_enc", "values", "encoder_weight", "codebook"])
def test_whole_numbers_in_the_place_of_floats_are_an_error(tmp_path, name, keep_packed):
    arm = Kron(64, 4)
    if name == "codebook":
        arm = ProductQuantised(DenseTied(64, 4), 2)
    io.save(arm.build(16, seed=0), tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    save_file({**tensors, name: tensors[name].to(torch.int16)}, tmp_path / "sae.safetensors")
    with pytest.raises(io.SAEFileError, match=f"another {name} than torch.int16"):
        io.load(tmp_path, keep_packed=keep_packed)


def test_a_byte_that_no_five_numbers_make_is_an_error(tmp_path):
    io.save(Quantised(Expander(64, 3, 4), 1.58).build(16, seed=0), tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    tensors["values"][7] = 243
    save_file(tensors, tmp_path / "sae.safetensors")
    with pytest.raises(io.SAEFileError, match="the values are damaged: a byte of 243 is not in 0..242") as error:
        io.load(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("arm", [Expander, Dynamic, DenseTied, DenseWarmTied])
def test_a_threshold_is_stored_in_a_format_that_older_versions_refuse(tmp_path, arm):
    sizes = (64, 4) if arm in (DenseTied, DenseWarmTied) else (64, 3, 4)
    sae = arm(*sizes, encoder="batch_topk").build(16, seed=0)
    sae.residual(torch.randn(50, 16))
    io.save(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    again = io.load(tmp_path)
    assert config["format"] == 5 and config["batch_topk"] is True and not again.encoder.training
    assert torch.equal(again.encoder.threshold, sae.encoder.threshold) and float(again.encoder.threshold) > 0
    for changes in ({"format": 3}, {"batch_topk": False}, {"batch_topk": "remove"}, {"batch_topk": 1}):
        io.save(sae, tmp_path)
        edit_config(tmp_path, **changes)
        with pytest.raises(io.SAEFileError, match=str(tmp_path)):
            io.load(tmp_path)
    io.save(arm(*sizes).build(16, seed=0), tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "cfg.json").read_text())["format"] == (3 if arm is Dynamic else 1)


@pytest.mark.parametrize("arm", [DenseWarmTied(64, 4), DenseRandInit(64, 4, encoder="batch_topk")])
def test_only_files_of_an_encoder_of_few_bits_are_of_format_9(tmp_path, arm):
    sae, h = Quantised(arm, 4, encoder_bits=1.58).build(16, seed=0), torch.randn(20, 16)
    io.save(sae, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 9 and (config["value_bits"], config["encoder_bits"]) == (4, 1.6)
    loaded, packed = io.load(tmp_path), io.load(tmp_path, keep_packed=True)
    assert torch.equal(loaded(h).reconstruction, sae.eval()(h).reconstruction)
    torch.testing.assert_close(packed(h).reconstruction, loaded(h).reconstruction)
    tensors = load_file(tmp_path / "sae.safetensors")
    assert tensors["encoder_weight"].dtype == torch.uint8 and tensors["encoder_scale"].shape == (64,)
    io.save(arm.build(16, seed=0), tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["format"] < 9


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder_bits": 32},
        {"encoder_bits": 8},
        {"encoder_bits": 3},
        {"encoder_bits": True},
        {"encoder_bits": "remove"},
        {"value_bits": 2},
        {"format": 8},
        {"format": 6},
        {"tied": True},
        {"sparse": True},
        {"degree": 5},
        {"rule": "threshold"},
        {"rule": "magic"},
        {"batch_topk": 1},
        {"always_on": 1},
        {"basis": None},
        {"pursuit": "omp"},
    ],
)
def test_what_does_not_go_with_an_encoder_of_few_bits_is_an_error_of_one_line(tmp_path, changes):
    io.save(Quantised(DenseWarmTied(64, 4), 4).build(16, seed=0), tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(io.SAEFileError, match=str(tmp_path)) as error:
        io.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_damaged_byte_of_an_encoder_is_an_error(tmp_path):
    io.save(Quantised(DenseWarmTied(64, 4), 1.58).build(16, seed=0), tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    tensors["encoder_weight"][7] = 243
    save_file(tensors, tmp_path / "sae.safetensors")
    with pytest.raises(io.SAEFileError, match="a byte of 243 is not in 0..242"):
        io.load(tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"null", b"\xff\xfe", b"{"])
def test_a_damaged_config_is_an_error(tmp_path, content):
    io.save(DenseWarmTied(64, 4).build(16, seed=0), tmp_path)
    (tmp_path / "cfg.json").write_bytes(content)
    with pytest.raises(io.SAEFileError):
        io.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_torn_file_of_weights_is_an_error(tmp_path, content):
    io.save(DenseWarmTied(64, 4).build(16, seed=0), tmp_path)
    (tmp_path / "sae.safetensors").write_bytes(content)
    with pytest.raises(io.SAEFileError):
        io.load(tmp_path)


def test_a_folder_without_an_sae_is_an_error(tmp_path):
    with pytest.raises(io.SAEFileError, match="no readable SAE"):
        io.load(tmp_path / "none")


@pytest.mark.parametrize("shape", [(16,), (2, 5, 16), (5, 15)])
def test_activations_of_the_wrong_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"must be \(tokens, 16\)"):
        Expander(64, 3, 4).build(16, seed=0)(torch.zeros(shape))


def test_two_machines_that_share_a_disk_write_under_different_temporary_names(tmp_path, monkeypatch):
    sae, renamed, replace = Expander(64, 3, 4).build(16, seed=0), [], os.replace

    def watched(source, target):
        renamed.append((os.path.basename(source), os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    for host in ("node7.cluster", "node8.cluster"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        io.save(sae, tmp_path)
    for host, names in (("node7", renamed[:2]), ("node8", renamed[2:])):
        assert names == [(f".{name}.{host}-{os.getpid()}", name) for name in ("sae.safetensors", "cfg.json")]
    assert {path.name for path in tmp_path.iterdir()} == {"sae.safetensors", "cfg.json"}


def test_a_pursuit_comes_back_and_a_reading_by_refit_is_not_saved(tmp_path):
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
