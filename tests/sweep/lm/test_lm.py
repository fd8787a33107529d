"""Finding and loading LMs, and capturing and replacing their activations, on small models of each architecture."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from sweep.lm.find import ModelConfig, ModelError, check_layer, find_model, model_hash
from sweep.lm.model import load_lm, next_token_losses
from tests.conftest import ARCHITECTURES, VOCAB

CPU = torch.device("cpu")


def load(folder, **settings):
    config = ModelConfig(name="t", path=str(folder), window=16, **settings)
    info = find_model(config)
    return load_lm(config, info, CPU), info


@pytest.fixture
def tokens():
    return torch.randint(0, VOCAB, (3, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_captured_activations_are_the_hidden_states(architecture, model_folders, tokens):
    lm, info = load(model_folders[architecture])
    assert (info.architecture, info.d_model, info.n_layers) == (architecture, 32, 3)
    hidden = (
        AutoModelForCausalLM.from_pretrained(model_folders[architecture])
        .eval()(tokens, output_hidden_states=True)
        .hidden_states
    )
    captured = lm.capture(tokens, [0, 1])
    for layer in (0, 1):  # the last hidden state of transformers has the final norm in it
        torch.testing.assert_close(captured[layer], hidden[layer + 1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layer", [0, 2])
def test_replacing_activations_by_themselves_leaves_the_logits_unchanged(architecture, layer, model_folders, tokens):
    lm, _ = load(model_folders[architecture])
    clean = lm.logits(tokens, layer, lambda h: None)
    own = lm.capture(tokens, [layer])[layer]
    assert torch.equal(lm.logits(tokens, layer, lambda h: own), clean)
    assert not torch.allclose(lm.logits(tokens, layer, torch.zeros_like), clean)
    assert torch.equal(lm.logits(tokens, layer, lambda h: None), clean)  # no hook is left behind


def test_capture_stops_after_the_deepest_layer(model_folders, tokens):
    lm, _ = load(model_folders["llama"])
    ran = []
    for i, block in enumerate(lm.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
    lm.capture(tokens, [0])
    assert ran == [0]


def test_next_token_losses_average_to_the_models_own_loss(model_folders, tokens):
    lm, _ = load(model_folders["gpt2"])
    logits = lm.logits(tokens, 0, lambda h: None)
    wanted = lm.model(tokens, labels=tokens).loss
    torch.testing.assert_close(next_token_losses(logits, tokens).mean(), wanted)


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


def test_an_unknown_architecture_says_which_key_to_give(model_folders, monkeypatch, tokens):
    monkeypatch.setattr("sweep.lm.model.BLOCKS", {})
    with pytest.raises(ModelError, match=r"model\.blocks=.*gpt_neox\.layers"):
        load(model_folders["gpt_neox"])
    lm, _ = load(model_folders["gpt_neox"], blocks="gpt_neox.layers")
    assert lm.capture(tokens, [1])[1].shape == (3, 16, 32)
    with pytest.raises(ModelError, match=r"model\.blocks=nowhere is not a list of 3 blocks"):
        load(model_folders["gpt_neox"], blocks="nowhere")


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
