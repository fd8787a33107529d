"""Finding and loading LMs, and what they compute; see `test_architectures` for each architecture."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from sweep.lm.find import ModelConfig, ModelError, check_layer, find_model, model_hash
from sweep.lm.losses import cross_entropies, log_normalisers
from tests.conftest import VOCAB
from tests.sweep.lm.conftest import load


@pytest.fixture
def tokens():
    return torch.randint(0, VOCAB, (3, 16), generator=torch.Generator().manual_seed(0))


def test_capture_stops_after_the_deepest_layer(model_folders, tokens):
    lm, _ = load(model_folders["llama"])
    ran = []
    for i, block in enumerate(lm.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    lm.capture(tokens, [0])
    assert ran == [0]


def test_cross_entropies_average_to_the_models_own_loss(model_folders, tokens):
    lm, _ = load(model_folders["gpt2"])
    logits = lm.logits(tokens, 0, lambda h: None)
    wanted = lm.model(tokens, labels=tokens).loss
    torch.testing.assert_close(cross_entropies(logits, tokens, log_normalisers(logits)).mean(), wanted)


def test_the_models_hash_follows_its_content_and_not_its_folder(model_folders, tmp_path):
    info = find_model(ModelConfig(name="t", path=str(model_folders["llama"]), window=16))
    copy = shutil.copytree(model_folders["llama"], tmp_path / "elsewhere")
    moved = find_model(ModelConfig(name="t", path=str(copy), window=16))
    assert model_hash(info, tmp_path / "a") == model_hash(moved, tmp_path / "b")
    tokenizer = copy / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text().replace('"bos_token"', '"not_bos_token"'))
    assert model_hash(moved, tmp_path / "b") != model_hash(info, tmp_path / "a")
    other = find_model(ModelConfig(name="t", path=str(model_folders["qwen2"]), window=16))
    assert model_hash(other, tmp_path / "a") != model_hash(info, tmp_path / "a")


def test_pickled_weights_need_permission(model_folders, tmp_path):
    folder = shutil.copytree(model_folders["llama"], tmp_path / "pickled")
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.allow_pickle=true"):
        load(folder)
    load(folder, allow_pickle=True)


def test_code_that_comes_with_a_model_is_not_run_without_permission(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "strange", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}'
    )
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=r"model\.trust_remote_code=true"):
        find_model(ModelConfig(name="t", path=str(tmp_path), window=16))
    assert not (tmp_path / "ran").exists()


def test_code_that_comes_with_a_model_is_run_with_permission(model_folders, tmp_path, tokens):
    folder = shutil.copytree(model_folders["llama"], tmp_path / "with_code")
    config = json.loads((folder / "config.json").read_text())
    places = {"AutoConfig": "code_of_it.OurConfig", "AutoModelForCausalLM": "code_of_it.OurModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "ours", "auto_map": places}))
    (folder / "code_of_it.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OurConfig(LlamaConfig):\n    model_type = 'ours'\n"
        "class OurModel(LlamaForCausalLM):\n    config_class = OurConfig\n"
    )
    ours, info = load(folder, trust_remote_code=True)
    assert info.architecture == "ours" and type(ours.model).__name__ == "OurModel"
    theirs, _ = load(model_folders["llama"])
    assert torch.equal(ours.capture(tokens, [1])[1], theirs.capture(tokens, [1])[1])


def test_missing_models_layers_and_too_long_windows_are_errors_that_name_the_key(tmp_path, monkeypatch, model_folders):
    with pytest.raises(ModelError, match=r"model\.path=.* is not a model folder"):
        find_model(ModelConfig(name="t", path=str(tmp_path)))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"nobody/nothing.*set model\.path"):
        find_model(ModelConfig(name="t", hub_id="nobody/nothing", revision="0" * 40))
    info = find_model(ModelConfig(name="t", path=str(model_folders["llama"]), window=64))
    with pytest.raises(ModelError, match=r"layer=3 must be in 0\.\.2"):
        check_layer(3, info, "t")
    with pytest.raises(ModelError, match=r"model\.window=65 must be in 2\.\.64"):
        find_model(ModelConfig(name="t", path=str(model_folders["llama"]), window=65))


@pytest.mark.parametrize(
    "path, label",
    [
        *(("/data/lm", "lm"), ("/data/lm/", "lm"), ("lm", "lm"), ("lm/.", "lm"), ("~/lm", "lm"), ("a/../lm", "lm")),
        *((".", "here"), ("./", "here"), ("..", "above"), ("../.", "above"), ("x/..", "here"), ("~", "home")),
        ("/", "local"),
    ],
)
def test_a_local_models_label_is_its_folders_name(tmp_path, monkeypatch, path, label):
    (tmp_path / "above" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "above" / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ModelConfig(name="local", path=path).label == label
    assert ModelConfig(name="gpt", path=path).label == "gpt"
