"""A checkpoint whose weights are not those of its model is refused before it is read, and again when it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from sweep.lm.find import ModelConfig, ModelError, find_model
from sweep.lm.model import load_lm
from tests.sweep.lm.conftest import CPU, load
from tests.sweep.lm.zoo import ZOO, random_lm

HEAD = "lm_head.weight"


def rewritten(folder, to, change, name="model.safetensors"):
    """Return a copy of a model's folder with {key: tensor} of its weights changed by a function."""
    copy = shutil.copytree(folder, to)
    save_file(change(load_file(copy / name)), copy / name, metadata={"format": "pt"})
    return copy


def without(key):
    return lambda state: {name: tensor for name, tensor in state.items() if name != key}


def prefixed(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def bare(state):
    """The state of the model without its head, as LlamaModel.save_pretrained writes it."""
    return {name.removeprefix("model."): tensor for name, tensor in state.items() if name != HEAD}


BROKEN = {
    "compiled": (prefixed("_orig_mod."), r"missing: .* and 27 more; unexpected: _orig_mod\..* torch\.compile's: save"),
    "parallel": (prefixed("module."), r"unexpected: module\..* DataParallel's: save"),
    "one missing": (without("model.norm.weight"), r"\(missing: model\.norm\.weight\)$"),
    "no head": (without(HEAD), r"\(missing: lm_head\.weight\)$"),
    "bare": (bare, r"\(missing: lm_head\.weight\)$"),
    "one more": (
        lambda state: {**state, "model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 32)},
        r"\(unexpected: model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight\)$",
    ),
    "another shape": (
        lambda state: {**state, HEAD: torch.zeros(90, 32)},
        r"\(of another shape: lm_head\.weight \(90, 32\) for \(100, 32\)\)$",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_weights_that_are_not_the_models_are_named_before_and_at_loading(broken, zoo, tmp_path):
    change, said = BROKEN[broken]
    folder = rewritten(zoo("llama"), tmp_path / "m", change)
    config = ModelConfig(name="t", path=str(folder), window=16)
    with pytest.raises(ModelError, match=said):
        find_model(config)
    info = replace(find_model(replace(config, path=str(zoo("llama")))), folder=folder)
    with pytest.raises(ModelError, match=said):
        load_lm(config, info, CPU)


def test_what_is_refused_is_no_more_than_one_line(zoo, tmp_path):
    folder = rewritten(zoo("llama"), tmp_path / "m", prefixed("_orig_mod."))
    with pytest.raises(ModelError) as refused:
        find_model(ModelConfig(name="t", path=str(folder), window=16))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_a_mixture_that_lacks_an_expert_is_refused_before_and_at_loading(zoo, tmp_path):
    key = next(key for key in load_file(zoo("mixtral") / "model.safetensors") if ".experts.2." in key)
    folder = rewritten(zoo("mixtral"), tmp_path / "m", without(key))
    config = ModelConfig(name="t", path=str(folder), window=16)
    with pytest.raises(ModelError, match="cannot be joined .* some are missing"):
        find_model(config)
    info = replace(find_model(replace(config, path=str(zoo("mixtral")))), folder=folder)
    with pytest.raises(ModelError, match="cannot be joined .* some are missing"):
        load_lm(config, info, CPU)


def test_a_tied_head_and_buffers_that_are_computed_are_not_missed_or_unexpected(zoo, tmp_path):
    assert HEAD not in load_file(zoo("llama_tied") / "model.safetensors")
    load(zoo("llama_tied"))
    for architecture, key in (
        ("gpt_neox", "gpt_neox.layers.0.attention.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("gptj", "transformer.h.0.attn.masked_bias"),
        ("gpt2", "transformer.h.0.attn.bias"),
    ):
        extra = {key: torch.zeros(3)}
        load(rewritten(zoo(architecture), tmp_path / key, lambda state, extra=extra: {**state, **extra}))


def test_sharded_weights_are_whole_or_refused(zoo, tmp_path, ids):
    random_lm("llama").save_pretrained(tmp_path / "m", max_shard_size="20KB")
    shards = sorted((tmp_path / "m").glob("model-*.safetensors"))
    assert len(shards) > 2
    whole, sharded = load(zoo("llama"))[0], load(tmp_path / "m")[0]
    assert torch.equal(whole.capture(ids, [2])[2], sharded.capture(ids, [2])[2])
    lost = min(json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())["weight_map"].values())
    (tmp_path / "m" / lost).unlink()
    with pytest.raises(ModelError, match=f"{lost} is not a whole file of weights"):
        find_model(ModelConfig(name="t", path=str(tmp_path / "m"), window=16))


def test_a_checkpoint_in_bfloat16_is_run_in_the_dtype_that_is_asked_for(zoo, tmp_path, ids):
    LlamaForCausalLM(LlamaConfig.from_pretrained(zoo("llama"))).bfloat16().save_pretrained(tmp_path / "m")
    for dtype, wanted in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        lm, _ = load(tmp_path / "m", dtype=dtype)
        assert lm.capture(ids, [1])[1].dtype == wanted


@pytest.mark.parametrize("architecture", ["llama", "mixtral", "gpt2", "gemma2"])
def test_half_precision_is_no_reason_to_take_an_lm_for_one_that_reads_both_ways(architecture, zoo):
    for dtype in ("bfloat16", "float16"):
        lm, info = load(zoo(architecture), dtype=dtype)
        assert len(lm.blocks) == info.n_layers


@pytest.mark.parametrize("kept", [0, 5, 400, 0.5, 0.999])
def test_truncated_weights_are_refused_in_one_line(kept, zoo, tmp_path):
    folder = shutil.copytree(zoo("llama"), tmp_path / "m")
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    with pytest.raises(ModelError, match="is not a whole file of weights") as refused:
        find_model(ModelConfig(name="t", path=str(folder), window=16))
    assert "\n" not in str(refused.value)


def test_the_zoo_has_a_model_of_each_kind_that_is_named_here():
    assert {"llama", "llama_tied", "mixtral", "gpt_neox", "gptj", "gpt2", "gemma2"} <= set(ZOO)
