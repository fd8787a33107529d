"""LMs that cannot be used are refused in one line, as early as it can be told."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from sweep.lm import outline as outline_module
from sweep.lm.blocks import check_candidates, find_blocks, probe_tokens
from sweep.lm.find import ModelConfig, ModelError, check_tokens, find_model
from tests.sweep.lm.conftest import load
from tests.sweep.lm.zoo import GROUPED, SIZES, TOKENS, random_of


def saved(config, folder):
    random_of(config).save_pretrained(folder)
    return folder


def refusal(folder, **settings):
    """Return what `find_model` says of the LM in `folder`, before its weights are loaded."""
    with pytest.raises(ModelError) as refused:
        find_model(ModelConfig(name="t", path=str(folder), window=16, **settings))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_model_that_reads_both_ways_is_refused_and_as_a_decoder_it_is_not(tmp_path):
    both = saved(hf.BertConfig(**SIZES, initializer_range=0.2), tmp_path / "both")
    with pytest.raises(ModelError, match=r"bert is no causal LM: .*is_decoder=true"):
        load(both)
    with pytest.raises(ModelError, match="is no causal LM"):
        load(both, dtype="bfloat16")
    load(saved(hf.BertConfig(**SIZES, is_decoder=True), tmp_path / "decoder"))


def test_a_stream_of_four_dimensions_is_refused(tmp_path):
    config = hf.Gemma3nTextConfig(
        **{**GROUPED, "head_dim": 8, "num_hidden_layers": 4},
        vocab_size_per_layer_input=TOKENS,
        hidden_size_per_layer_input=8,
        layer_types=["full_attention"] * 4,
        num_kv_shared_layers=0,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 4,
    )
    said = refusal(saved(config, tmp_path))
    assert "(windows, length, d_model) = (2, 8, 32)" in said and "model.layers returns (4, 2, 8, 32)" in said


@pytest.mark.parametrize("path", ["nowhere", "model.norm"])
def test_model_blocks_must_name_a_list_of_blocks(path, zoo):
    said = f"model.blocks={path} is not a list of 3 blocks; such lists: model.layers"
    assert refusal(zoo("llama"), blocks=path) == said


def test_model_blocks_may_not_name_a_list_that_text_does_not_run(zoo, ids):
    vision, language = "model.vision_tower.encoder.layers", "model.language_model.layers"
    assert f"{vision} is not run by text" in refusal(zoo("gemma3_with_vision"), blocks=vision)
    chosen, _ = load(zoo("gemma3_with_vision"), blocks=language)
    found, _ = load(zoo("gemma3_with_vision"))
    assert chosen.blocks is chosen.model.get_submodule(language) and len(found.capture(ids, [1])) == 1


class TwoLists(nn.Module):
    """Blocks, and a norm after each: both lists return the residual stream."""

    def __init__(self, norms_go_on: bool):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(3))
        self.embedding = nn.Embedding(9, 4)
        self.norms_go_on = norms_go_on

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        if self.norms_go_on:  # two stacks, one after the other
            for module in (*self.blocks, *self.norms):
                hidden = module(hidden)
        else:
            for block, norm in zip(self.blocks, self.norms, strict=True):
                hidden = block(hidden)
                norm(hidden)
        return hidden


def test_of_several_lists_the_blocks_are_those_that_pass_the_stream_on():
    tokens = torch.zeros(1, 2, dtype=torch.long)
    model = TwoLists(norms_go_on=False)
    assert find_blocks(model, 3, 4, None, tokens, model) == "blocks"
    model = TwoLists(norms_go_on=True)
    with pytest.raises(ModelError, match="that of blocks, norms: say which as model.blocks="):
        find_blocks(model, 3, 4, None, tokens, model)
    assert find_blocks(model, 3, 4, "norms", tokens, model) == "norms"
    with pytest.raises(ModelError, match=r"= \(1, 2, 5\).*blocks returns \(1, 2, 4\)"):
        find_blocks(model, 3, 5, None, tokens, model)


def test_a_model_without_a_list_of_as_many_modules_says_which_lists_it_has():
    with pytest.raises(ModelError, match=r"strange has no list of 5 blocks to hook; .*: blocks \(3\), norms \(3\)$"):
        check_candidates(TwoLists(norms_go_on=False), 5, "strange", None)
    with pytest.raises(ModelError, match=r"has no list of 5 blocks to hook; lists of modules in it: none$"):
        check_candidates(nn.Linear(1, 1), 5, "strange", None)


def test_the_tiny_pass_reads_ordinary_tokens_that_differ_where_they_should():
    config = hf.LlamaConfig(**{**GROUPED, "bos_token_id": 0, "eos_token_id": [3, 4]})
    windows = probe_tokens(config, TOKENS, 64)
    assert windows.shape == (2, 8) and not {0, 1, 3, 4} & set(windows.flatten().tolist())
    assert torch.equal(windows[0, :4], windows[1, :4]) and not (windows[0, 4:] == windows[1, 4:]).any()
    assert windows.max() < TOKENS // 2  # an embedding's last rows may be padding
    assert probe_tokens(config, 1, 3).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    "config, said",
    [
        ({"model_type": "t5"}, "holds an encoder and a decoder (model_type t5)"),
        ({"model_type": "bart"}, "holds an encoder and a decoder (model_type bart)"),
        ({"model_type": "resnet"}, "its config (model_type resnet) gives no hidden_size"),
        ({"model_type": "clip"}, "clip"),
        ({"model_type": "vit"}, "transformers builds no causal LM"),
        ({"model_type": "albert", "num_hidden_layers": 3}, "transformers builds no causal LM"),
        ({"model_type": "nonsense"}, "is not a model that transformers can read"),
        ({"hidden_size": 3}, "is not a model that transformers can read"),
    ],
)
def test_what_is_no_causal_lm_is_refused(config, said, zoo, tmp_path):
    shutil.copy(zoo("llama") / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert said in refusal(tmp_path)


def test_a_config_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert "is not a model that transformers can read" in refusal(tmp_path)


def test_a_token_that_the_lm_cannot_embed_is_named(model_folders, tokenizer):
    info = find_model(ModelConfig(name="t", path=str(model_folders["llama"]), window=16))
    check_tokens(np.array([[0, 399]]), info, tokenizer)
    check_tokens(np.zeros((0, 16), int), info, tokenizer)
    with pytest.raises(ModelError, match=r"token id 400 must be in 0\.\.399: .* 400 tokens, and .* 400 rows"):
        check_tokens(np.array([[0, 400]]), info, tokenizer)


def test_a_vocabulary_padded_beyond_the_tokenizer_is_fine(tmp_path, tokenizer):
    padded = hf.LlamaConfig(**{**GROUPED, "vocab_size": 512})
    info = find_model(ModelConfig(name="t", path=str(saved(padded, tmp_path)), window=16))
    assert info.vocabulary == 512 > len(tokenizer)
    check_tokens(np.array([[511]]), info, tokenizer)


def test_a_usable_lm_is_examined_once_and_a_changed_one_again(zoo, tmp_path, monkeypatch):
    folder = shutil.copytree(zoo("llama"), tmp_path / "m")
    config = ModelConfig(name="t", path=str(folder), window=16)
    examined = []
    real = outline_module.outline
    monkeypatch.setattr(outline_module, "outline", lambda subject: examined.append(subject) or real(subject))
    first = find_model(config, tmp_path / "cache")
    assert find_model(config, tmp_path / "cache") == first and len(examined) == 1
    (folder / "model.safetensors").write_bytes(b"")
    for _ in range(2):  # a refusal is not remembered
        with pytest.raises(ModelError, match="not a whole file"):
            find_model(config, tmp_path / "cache")
    assert len(examined) == 3


def test_nothing_is_read_or_made_of_the_weights_to_find_a_model_out(tmp_path, monkeypatch):
    """A model of 40 GB, of which only the config and the headers are there."""
    config = hf.LlamaConfig(**{**GROUPED, "hidden_size": 16384, "intermediate_size": 65536})
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(config)
    config.save_pretrained(tmp_path)
    header, end = {}, 0
    for key, tensor in model.state_dict().items():
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + 4 * tensor.numel()]}
        end += 4 * tensor.numel()
    assert end > 4e10
    text = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as stream:  # a sparse file: it takes no disk
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    assert find_model(ModelConfig(name="t", path=str(tmp_path), window=16)).vocabulary == TOKENS
